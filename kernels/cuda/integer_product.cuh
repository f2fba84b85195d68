// Products of one half of a block on the int8 tensor cores.
//
// bcq/shift: the q bits of a weight select one byte of its group's 2^q small integers (PRMT looks
// up four weights at once), so all planes take one product. bcq/free: every plane is expanded to
// bytes 0 and 1 and takes a product of its own, exact, before its alpha. int8/group: the codes.
//
// AddHalf(w, h, x, scales, tables, factors, lane, acc) adds half h of a lane's block w times
// N8 groups of 8 columns to acc[n][e], of row g + 8 (e / 2) and column 8n + 2t + e % 2.
// x.Step(n, j): the B fragment of group n and step j, steps of a group in order; scales.At(s, n,
// e): what column 8n + 2t + e has in slot s; tables: bcq/shift's bytes of each set, shared memory.
#ifndef SHIFTADD_KERNELS_CUDA_INTEGER_PRODUCT_CUH_
#define SHIFTADD_KERNELS_CUDA_INTEGER_PRODUCT_CUH_

#include "kernels/cuda/tile.cuh"

namespace shiftadd::kernels::cuda {

// Bits j, j+4, j+8, … of a plane's word as bit `to` of eight nibbles.
__device__ __forceinline__ uint32_t PlaneBits(uint32_t word, int j, int to) {
  const uint32_t moved = j >= to ? word >> (j - to) : word << (to - j);
  return moved & (0x11111111u << to);
}

// Bits 0 and 1 of eight nibbles for each step j: those of two planes.
struct PairCodes {
  uint32_t even, odd;  // nibbles of steps 0 | 2 << 2, and of 1 | 3 << 2

  __device__ __forceinline__ PairCodes(uint32_t first, uint32_t second) {
    constexpr uint32_t kEven = 0x55555555u;
    even = PickBits(kEven, first, second << 1);
    odd = PickBits(kEven, first >> 1, second);
  }
  // Bits 2 and 3 of the nibbles belong to another step.
  __device__ __forceinline__ uint32_t Step(int j) const {
    const uint32_t both = j % 2 == 0 ? even : odd;
    return j < 2 ? both : both >> 2;
  }
};

// The byte of each of eight nibbles of `codes`: a[0] (and a[2]) of one row's A fragment.
__device__ __forceinline__ void LookUp(uint32_t first, uint32_t second, uint32_t codes,
                                       uint32_t* a0, uint32_t* a2) {
  *a0 = PickBytes(first, second, codes);
  *a2 = PickBytes(first, second, codes >> 16);
}

// One half of a block of shift scales, ready to be decoded step by step. The integers of four
// planes do not fit one look-up of eight bytes: planes 2 and 3 make a second fragment.
template <bool Z, int Q, int S>
struct ShiftDecoder {
  static constexpr int kFragments = Q == 4 ? 2 : 1;
  static constexpr uint32_t kPair = 0x33333333u;

  const Block<Form::kShift, Z, Q, S>& w;
  int h;
  PairCodes low[2];
  PairCodes high[2];  // Q = 4

  __device__ __forceinline__ ShiftDecoder(const Block<Form::kShift, Z, Q, S>& block, int half)
      : w(block),
        h(half),
        low{{w.Word(h, 0, 0), w.Word(h, 1, 0)}, {w.Word(h, 0, 1), w.Word(h, 1, 1)}},
        high{{w.Word(h, Q - 2, 0), w.Word(h, Q - 1, 0)},
             {w.Word(h, Q - 2, 1), w.Word(h, Q - 1, 1)}} {}

  // A fragments of step j, to be added; look[r] is the table of row g + 8r.
  __device__ __forceinline__ void Step(int j, const uint2 (&look)[2],
                                       uint32_t (&a)[kFragments][4]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      uint32_t codes = low[r].Step(j) & kPair;
      if constexpr (Q == 3) codes |= PlaneBits(w.Word(h, 2, r), j, 2);
      LookUp(look[r].x, look[r].y, codes, &a[0][r], &a[0][2 + r]);
      if constexpr (Q == 4) {
        LookUp(look[r].y, 0, high[r].Step(j) & kPair, &a[1][r], &a[1][2 + r]);
      }
    }
  }
};

template <int S>
__device__ __forceinline__ void KeepSlot(int s, int lane, const uint32_t (&a)[4],
                                         uint32_t (&kept)[4]) {
  const uint32_t mask = S == 1 || (lane & 3) / (4 / S) == s ? ~0u : 0u;
#pragma unroll
  for (int i = 0; i < 4; ++i) kept[i] = a[i] & mask;
}

template <bool Z, int Q, int S, int N8, typename X, typename R>
__device__ __forceinline__ void AddHalf(const Block<Form::kShift, Z, Q, S>& w, int h, X& x,
                                        const R& scales, const uint2* tables,
                                        const Factors& factors, int lane, float (&acc)[N8][4]) {
  // A lane's inputs are all of one slot: its own.
  const int own = h * S + (S == 1 ? 0 : (lane & 3) / (4 / S));
  const uint2 look[2] = {tables[(w.sets >> (8 * own)) & 7], tables[(w.sets >> (8 * own + 4)) & 7]};
  int c[S][N8][4] = {};
  const ShiftDecoder<Z, Q, S> decoder(w, h);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint32_t a[decoder.kFragments][4];
    decoder.Step(j, look, a);
#pragma unroll
    for (int n = 0; n < N8; ++n) {
      const uint2 b = x.Step(n, j);
#pragma unroll
      for (int f = 0; f < decoder.kFragments; ++f) {
#pragma unroll
        for (int s = 0; s < S; ++s) {
          uint32_t kept[4];
          KeepSlot<S>(s, lane, a[f], kept);
          IntegerMma(kept, b.x, b.y, c[s][n]);
        }
      }
    }
  }
#pragma unroll
  for (int s = 0; s < S; ++s) {
    const float2 scale = HalvesToFloats(w.scale[0][h * S + s]);
    float2 zeta = {0, 0};
    if constexpr (Z) zeta = HalvesToFloats(w.zeta[h * S + s]);
#pragma unroll
    for (int n = 0; n < N8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const ColumnScale column = scales.At(s, n, e & 1);
        float term = (e < 2 ? scale.x : scale.y) * static_cast<float>(c[s][n][e]);
        if constexpr (Z) {
          term = fmaf(e < 2 ? zeta.x : zeta.y, factors.zeta * static_cast<float>(column.sum), term);
        }
        acc[n][e] = fmaf(column.scale, term, acc[n][e]);
      }
    }
  }
}

template <bool Z, int Q, int S, int N8, typename X, typename R>
__device__ __forceinline__ void AddHalf(const Block<Form::kFree, Z, Q, S>& w, int h, X& x,
                                        const R& scales, const uint2*, const Factors&, int lane,
                                        float (&acc)[N8][4]) {
#pragma unroll
  for (int s = 0; s < S; ++s) {
    float2 zeta = {0, 0};
    if constexpr (Z) {
      zeta = HalvesToFloats(w.zeta[h * S + s]);
    } else {
#pragma unroll
      for (int i = 0; i < Q; ++i) {
        const float2 alpha = HalvesToFloats(w.scale[i][h * S + s]);
        zeta.x -= alpha.x, zeta.y -= alpha.y;
      }
    }
    float term[N8][4];
#pragma unroll
    for (int n = 0; n < N8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float half_sum = 0.5f * static_cast<float>(scales.At(s, n, e & 1).sum);
        term[n][e] = (e < 2 ? zeta.x : zeta.y) * half_sum;
      }
    }
#pragma unroll
    for (int i = 0; i < Q; ++i) {
      int c[N8][4] = {};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t a[4], kept[4];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          LookUp(0x0100u, 0, PlaneBits(w.Word(h, i, r), j, 0), &a[r], &a[2 + r]);
        }
        KeepSlot<S>(s, lane, a, kept);
#pragma unroll
        for (int n = 0; n < N8; ++n) {
          const uint2 b = x.Step(n, j);
          IntegerMma(kept, b.x, b.y, c[n]);
        }
      }
      const float2 alpha = HalvesToFloats(w.scale[i][h * S + s]);
#pragma unroll
      for (int n = 0; n < N8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          term[n][e] = fmaf(e < 2 ? alpha.x : alpha.y, static_cast<float>(c[n][e]), term[n][e]);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < N8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        acc[n][e] = fmaf(scales.At(s, n, e & 1).scale, term[n][e], acc[n][e]);
      }
    }
  }
}

// One lane's share of a block of int8/group.
template <int S>
struct CodeBlock {
  static constexpr int kBytes = BlockBytes(Form::kInt8, 0, false, S);
  static constexpr bool kHasSets = false;

  uint4 codes[8];
  uint32_t scale[2 * S];

  __device__ __forceinline__ void Load(const uint8_t* block, int lane) {
#pragma unroll
    for (int i = 0; i < 8; ++i) codes[i] = LoadWeights16(block + i * 512 + lane * 16);
    LoadPairs<S>(block + 4096 + (lane >> 2) * 8 * S, scale);
  }
};

template <int S, int N8, typename X, typename R>
__device__ __forceinline__ void AddHalf(const CodeBlock<S>& w, int h, X& x, const R& scales,
                                        const uint2*, const Factors&, int lane,
                                        float (&acc)[N8][4]) {
#pragma unroll
  for (int s = 0; s < S; ++s) {
    int c[N8][4] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint4& v = w.codes[h * 4 + j];
      const uint32_t a[4] = {v.x, v.y, v.z, v.w};
      uint32_t kept[4];
      KeepSlot<S>(s, lane, a, kept);
#pragma unroll
      for (int n = 0; n < N8; ++n) {
        const uint2 b = x.Step(n, j);
        IntegerMma(kept, b.x, b.y, c[n]);
      }
    }
    const float2 scale = HalvesToFloats(w.scale[h * S + s]);
#pragma unroll
    for (int n = 0; n < N8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float term = (e < 2 ? scale.x : scale.y) * static_cast<float>(c[n][e]);
        acc[n][e] = fmaf(scales.At(s, n, e & 1).scale, term, acc[n][e]);
      }
    }
  }
}

// Fills `tables` for AddHalf; a __syncthreads must follow.
template <typename B>
__device__ __forceinline__ void LoadTables(const LaunchParams& p, int part, uint2* tables) {
  if constexpr (B::kHasSets) {
    const uint32_t* words = p.sets[part].words;
    if (threadIdx.x < kMaxTiledSets) {
      tables[threadIdx.x] = make_uint2(words[2 * threadIdx.x], words[2 * threadIdx.x + 1]);
    }
  }
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_INTEGER_PRODUCT_CUH_
