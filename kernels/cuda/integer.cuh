// y = x W^T for 8 tokens and more on the int8 tensor cores.
//
// bcq/shift: the q bits of a weight select one byte of its group's 2^q small integers (PRMT looks
// up four weights at once), so all planes take one product. bcq/free: every plane is expanded to
// bytes 0 and 1 and takes a product of its own, exact, before its alpha. int8/group: the codes.
#ifndef SHIFTADD_KERNELS_CUDA_INTEGER_CUH_
#define SHIFTADD_KERNELS_CUDA_INTEGER_CUH_

#include "kernels/cuda/tile.cuh"

namespace shiftadd::kernels::cuda {

// B fragments of one half of N8 groups of 8 columns.
template <int N8>
struct IntegerColumns {
  uint4 bytes[N8][2];

  // `at` is this lane's first fragment.
  __device__ __forceinline__ void Load(const uint4* at) {
#pragma unroll
    for (int n = 0; n < N8; ++n) {
      bytes[n][0] = LoadActivations16(at + n * 64);
      bytes[n][1] = LoadActivations16(at + n * 64 + 32);
    }
  }
  // Registers of step j.
  __device__ __forceinline__ uint2 Step(int n, int j) const {
    const uint4& v = bytes[n][j / 2];
    return j % 2 == 0 ? make_uint2(v.x, v.y) : make_uint2(v.z, v.w);
  }
};

// One slot's scales of the columns that a lane's results belong to: 8n + 2t and the next.
template <int N8>
struct ResultScales {
  ColumnScale of[N8][2];

  __device__ __forceinline__ void Load(const ColumnScale* at) {
#pragma unroll
    for (int n = 0; n < N8; ++n) LoadTwoScales(at + n * 8, of[n]);
  }
};

// Bits j, j+4, j+8, … of a plane's word in bit `to` of eight nibbles, over what is in `codes`.
__device__ __forceinline__ uint32_t AddPlane(uint32_t word, int j, int to, uint32_t codes) {
  const uint32_t moved = j >= to ? word >> (j - to) : word << (to - j);
  return codes | (moved & (0x11111111u << to));
}

// The byte of each of eight nibbles of `codes`: a[0] (and a[2]) of one row's A fragment.
__device__ __forceinline__ void LookUp(uint2 table, uint32_t codes, uint32_t* a0, uint32_t* a2) {
  *a0 = __byte_perm(table.x, table.y, codes);
  *a2 = __byte_perm(table.x, table.y, codes >> 16);
}

// A fragment of step j of a half, shift scales; look[r] is the table of row g + 8r.
template <bool Z, int Q, int S>
__device__ __forceinline__ void DecodeShift(const Block<Form::kShift, Z, Q, S>& w, int h, int j,
                                            const uint2 (&look)[2], uint32_t (&a)[4]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    uint32_t codes = AddPlane(w.Word(h, 0, r), j, 0, 0);
    codes = AddPlane(w.Word(h, 1, r), j, 1, codes);
    if constexpr (Q == 3) codes = AddPlane(w.Word(h, 2, r), j, 2, codes);
    if constexpr (Q == 4) {
      uint32_t high = AddPlane(w.Word(h, 2, r), j, 0, 0);
      high = AddPlane(w.Word(h, Q - 1, r), j, 1, high);
      uint32_t low0, low2, high0, high2;
      LookUp(make_uint2(look[r].x, 0), codes, &low0, &low2);
      LookUp(make_uint2(look[r].y, 0), high, &high0, &high2);
      a[r] = low0 + high0;  // no byte carries
      a[2 + r] = low2 + high2;
    } else {
      LookUp(look[r], codes, &a[r], &a[2 + r]);
    }
  }
}

template <int S>
__device__ __forceinline__ void KeepSlot(int s, int lane, const uint32_t (&a)[4],
                                         uint32_t (&kept)[4]) {
  const uint32_t mask = S == 1 || (lane & 3) / (4 / S) == s ? ~0u : 0u;
#pragma unroll
  for (int i = 0; i < 4; ++i) kept[i] = a[i] & mask;
}

// acc[n][e]: row g + 8 (e / 2), column 8n + 2t + e % 2, as the tensor cores give it.
template <bool Z, int Q, int S, int N8>
__device__ __forceinline__ void AddHalf(const Block<Form::kShift, Z, Q, S>& w, int h,
                                        const IntegerColumns<N8>& x,
                                        const ResultScales<N8> (&scales)[S], uint2 table,
                                        float zeta_unit, int lane, float (&acc)[N8][4]) {
  // A lane's inputs are all of one slot: its own.
  uint2 look[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int own = h * S + (S == 1 ? 0 : (lane & 3) / (4 / S));
    const uint32_t set = w.sets >> (8 * own + 4 * r);
    look[r].x = __shfl_sync(~0u, table.x, set, 16);
    look[r].y = __shfl_sync(~0u, table.y, set, 16);
  }
  constexpr bool kBiased = Q == 4 && !Z;
  int c[S][N8][4];
#pragma unroll
  for (int s = 0; s < S; ++s) {
#pragma unroll
    for (int n = 0; n < N8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        c[s][n][e] = kBiased ? -2 * kLookUpBias * scales[s].of[n][e & 1].sum : 0;
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint32_t a[4];
    DecodeShift(w, h, j, look, a);
#pragma unroll
    for (int s = 0; s < S; ++s) {
      uint32_t kept[4];
      KeepSlot<S>(s, lane, a, kept);
#pragma unroll
      for (int n = 0; n < N8; ++n) {
        const uint2 b = x.Step(n, j);
        IntegerMma<!kBiased>(kept, b.x, b.y, c[s][n]);
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
        const ColumnScale& column = scales[s].of[n][e & 1];
        float term = (e < 2 ? scale.x : scale.y) * static_cast<float>(c[s][n][e]);
        if constexpr (Z) {
          term = fmaf(e < 2 ? zeta.x : zeta.y, zeta_unit * static_cast<float>(column.sum), term);
        }
        acc[n][e] = fmaf(column.scale, term, acc[n][e]);
      }
    }
  }
}

template <bool Z, int Q, int S, int N8>
__device__ __forceinline__ void AddHalf(const Block<Form::kFree, Z, Q, S>& w, int h,
                                        const IntegerColumns<N8>& x,
                                        const ResultScales<N8> (&scales)[S], uint2, float, int lane,
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
        const float half_sum = 0.5f * static_cast<float>(scales[s].of[n][e & 1].sum);
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
          LookUp(make_uint2(0x0100u, 0), AddPlane(w.Word(h, i, r), j, 0, 0), &a[r], &a[2 + r]);
        }
        KeepSlot<S>(s, lane, a, kept);
#pragma unroll
        for (int n = 0; n < N8; ++n) {
          const uint2 b = x.Step(n, j);
          IntegerMma<true>(kept, b.x, b.y, c[n]);
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
        acc[n][e] = fmaf(scales[s].of[n][e & 1].scale, term[n][e], acc[n][e]);
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

template <int S, int N8>
__device__ __forceinline__ void AddHalf(const CodeBlock<S>& w, int h, const IntegerColumns<N8>& x,
                                        const ResultScales<N8> (&scales)[S], uint2, float, int lane,
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
        IntegerMma<true>(kept, b.x, b.y, c[n]);
      }
    }
    const float2 scale = HalvesToFloats(w.scale[h * S + s]);
#pragma unroll
    for (int n = 0; n < N8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float term = (e < 2 ? scale.x : scale.y) * static_cast<float>(c[n][e]);
        acc[n][e] = fmaf(scales[s].of[n][e & 1].scale, term, acc[n][e]);
      }
    }
  }
}

// acc[n][e]: row g + 8 (e / 2), column 8n + 2t + e % 2 of the CTA's.
template <typename B, int S, int N8>
__device__ __forceinline__ void MultiplyIntegerTile(const LaunchParams& p, const Tile& at,
                                                    float (&acc)[N8][4]) {
  const int lane = threadIdx.x & 31;
  const int warp = threadIdx.x >> 5;
  const int warps = blockDim.x >> 5;
  int left = p.units - warp;
  const uint8_t* block = at.blocks + (int64_t{at.tile} * p.units + warp) * B::kBytes;
  B w;
  if (left > 0) w.Load(block, lane);
  uint2 sets = {0, 0};
  if constexpr (B::kHasSets) {
    sets = LoadWeights8(at.blocks - kSetsBytes + 64 + (lane & 15) * 8);
  }
  const float zeta_unit = p.out[at.part].zeta_unit;
  // With one or two groups of columns the stride of a half is known.
  const int groups8 = N8 <= 2 ? N8 : p.x.groups8;
  const int half_bytes = groups8 * 64;  // in uint4
  const int half_scales = S * groups8 * 8;
  // Columns that are not there are never stored: lanes that would read them read column 0.
  const int fragment = lane / 4 < p.x.columns ? lane : lane % 4;
  const uint4* bytes = p.x.bytes + int64_t{warp} * 2 * half_bytes + blockIdx.y * N8 * 64 + fragment;
  const ColumnScale* scales =
      p.x.scales + int64_t{warp} * 2 * half_scales + blockIdx.y * N8 * 8 + 2 * (lane % 4);
  StartNextKernel();
  WaitForPreviousKernel();
#pragma unroll 1
  while (left > 0) {
    // The next block is on its way while this one is decoded.
    B next;
    left -= warps;
    block += warps * B::kBytes;
    if (left > 0) next.Load(block, lane);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      IntegerColumns<N8> x;
      x.Load(bytes + h * half_bytes);
      ResultScales<N8> of[S];
#pragma unroll
      for (int s = 0; s < S; ++s) of[s].Load(scales + h * half_scales + s * groups8 * 8);
      AddHalf(w, h, x, of, sets, zeta_unit, lane, acc);
    }
    bytes += warps * 2 * half_bytes;
    scales += warps * 2 * half_scales;
    w = next;
  }
}

// K: the kind of all matrices, or kMixedKinds.
template <int K, int S, int N8>
__device__ __forceinline__ void MultiplyInteger(const LaunchParams& p, const Tile& at,
                                                float (&acc)[N8][4]) {
  switch (K == kMixedKinds ? p.kind[at.part] : K) {
#define SHIFTADD_CASE(form, zeta, q)                                   \
  case KindOf(form, zeta, q):                                          \
    if constexpr (K == kMixedKinds || K == KindOf(form, zeta, q)) {    \
      MultiplyIntegerTile<Block<form, zeta, q, S>, S, N8>(p, at, acc); \
    }                                                                  \
    break;
    SHIFTADD_FOR_EACH_PLANE_KIND(SHIFTADD_CASE)
#undef SHIFTADD_CASE
    case KindOf(Form::kInt8, false, 0):
      if constexpr (K == kMixedKinds || K == KindOf(Form::kInt8, false, 0)) {
        MultiplyIntegerTile<CodeBlock<S>, S, N8>(p, at, acc);
      }
      break;
  }
}

// N8 is 1, 2 (x.groups8 is the same) or 4; columns [8 N8 blockIdx.y, …).
template <int K, int S, int N8>
__global__ void __launch_bounds__(256, N8 == 4 ? 1 : 3 - S)
    IntegerKernel(const __grid_constant__ LaunchParams p) {
  constexpr int kStride = N8 * 8 * kTileRows;
  __shared__ __align__(16) float sums[kMaxWarps / 2][kStride];
  const int lane = threadIdx.x & 31;
  const Tile at = FindTile(p);
  float acc[N8][4] = {};
  MultiplyInteger<K, S, N8>(p, at, acc);
  float4* own = reinterpret_cast<float4*>(sums[threadIdx.x >> 5]);
#pragma unroll
  for (int n = 0; n < N8; ++n) {
    own[n * 32 + lane] = make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
  }
  __syncthreads();
  const PartOutput& out = p.out[at.part];
  const int warps = blockDim.x >> 5;
  const int tokens = N8 * 8 / p.x.digits;  // of this CTA
  for (int i = threadIdx.x; i < tokens * kTileRows; i += blockDim.x) {
    const int token = i / kTileRows;
    const int r = i % kTileRows;
    const int column = token * p.x.digits;
    const int holder = column / 8 * 32 + (r % 8) * 4 + column % 8 / 2;
    const float* first = &sums[0][holder * 4 + r / 8 * 2 + column % 2];
    float y = SumOfWarps<kStride, kMaxWarps / 2>(first, warps);
    if (p.x.digits == 2) y += SumOfWarps<kStride, kMaxWarps / 2>(first + 1, warps);
    const int64_t row = int64_t{at.tile} * kTileRows + r;
    const int64_t to = int64_t{blockIdx.y} * tokens + token;
    if (row < out.n && to < p.x.m) out.y[to * out.ldy + row] = y * out.unit;
  }
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_INTEGER_CUH_
