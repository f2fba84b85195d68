// y = x W^T for few tokens on the binary tensor cores: planes are multiplied as they are stored.
//
// The 8 bits of a column's int8 digits are the 8 columns of an m16n8k128 AND-popcount product (bit
// 7 weighs -128). A lane gets bits 2t and 2t+1 for rows g and g+8; the four lanes of a row weigh
// 4^t and meet at the very end.
#ifndef SHIFTADD_KERNELS_CUDA_BINARY_CUH_
#define SHIFTADD_KERNELS_CUDA_BINARY_CUH_

#include "kernels/cuda/tile.cuh"

namespace shiftadd::kernels::cuda {

// One half of C columns: this lane's bits and, each slot, scale and sum.
template <int S, int C>
struct BinaryColumns {
  uint32_t bits[C];
  ColumnScale scale[S][C];

  // `bits_at` is this lane's word of column 0.
  __device__ __forceinline__ void Load(const uint32_t* bits_at, const ColumnScale* scales_at) {
#pragma unroll
    for (int c = 0; c < C; ++c) bits[c] = LoadActivations4(bits_at + c * 32);
#pragma unroll
    for (int s = 0; s < S; ++s) {
      if constexpr (C == 1) {
        scale[s][0] = LoadScale(scales_at + s * 8);
      } else {
#pragma unroll
        for (int c = 0; c < C; c += 2) LoadTwoScales(scales_at + s * 8 + c, &scale[s][c]);
      }
    }
  }
};

// Adds one slot of one half of a block times C columns to acc.
template <Form F, bool Z, int Q, int S, int C>
__device__ __forceinline__ void AddSlot(const Block<F, Z, Q, S>& w, int h, int s,
                                        const BinaryColumns<S, C>& x, uint32_t sets,
                                        float zeta_unit, int lane, float (&acc)[C][2]) {
  const int t = lane & 3;
  const int sign = t == 3 ? -2 : 2;
  const int once = t == 0 ? ~0 : 0;  // a digit sum must enter a row in one lane only
  const int slot = h * S + s;
  const bool mine = S == 1 || t / (4 / S) == s;
  float2 scale[Block<F, Z, Q, S>::kScales];
#pragma unroll
  for (int i = 0; i < Block<F, Z, Q, S>::kScales; ++i) scale[i] = HalvesToFloats(w.scale[i][slot]);
  float2 zeta = {0, 0};
  if constexpr (Z) zeta = HalvesToFloats(w.zeta[slot]);
  uint32_t set[2] = {0, 0};
  int total[2] = {0, 0};
  if constexpr (F == Form::kShift) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      set[r] = __shfl_sync(~0u, sets, w.sets >> (8 * slot + 4 * r), 16);
      if constexpr (!Z) total[r] = __dp4a(static_cast<int>(set[r]), 0x01010101, 0) >> 1;
    }
  } else if constexpr (!Z) {
#pragma unroll
    for (int i = 0; i < Q; ++i) zeta.x -= scale[i].x, zeta.y -= scale[i].y;
  }
#pragma unroll
  for (int c = 0; c < C; ++c) {
    int count[2][Q];
#pragma unroll
    for (int i = 0; i < Q; ++i) {
      int product[4];
      BinaryMma(w.Word(h, i, 0), w.Word(h, i, 1), mine ? x.bits[c] : 0, product);
      count[0][i] = product[0] + sign * product[1];
      count[1][i] = product[2] + sign * product[3];
    }
    const int sum = x.scale[s][c].sum & once;
    float term[2];
    if constexpr (F == Form::kFree) {
      const float half_sum = 0.5f * static_cast<float>(sum);
      term[0] = zeta.x * half_sum;
      term[1] = zeta.y * half_sum;
#pragma unroll
      for (int i = 0; i < Q; ++i) {
        term[0] = fmaf(scale[i].x, static_cast<float>(count[0][i]), term[0]);
        term[1] = fmaf(scale[i].y, static_cast<float>(count[1][i]), term[1]);
      }
    } else {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        // Shift and add: counts of two planes a register (they fit 16 bits) times powers of two.
        int shifted = Z ? 0 : -total[r] * sum;
        const uint32_t low = __byte_perm(count[r][0], count[r][1], 0x5410);
        shifted = __dp2a_lo(static_cast<int>(low), static_cast<int>(set[r]), shifted);
        if constexpr (Q > 2) {
          const uint32_t high =
              Q == 3 ? count[r][2] : __byte_perm(count[r][2], count[r][Q - 1], 0x5410);
          shifted = __dp2a_hi(static_cast<int>(high), static_cast<int>(set[r]), shifted);
        }
        term[r] = (r == 0 ? scale[0].x : scale[0].y) * static_cast<float>(shifted);
      }
      if constexpr (Z) {
        const float unit_sum = zeta_unit * static_cast<float>(sum);
        term[0] = fmaf(zeta.x, unit_sum, term[0]);
        term[1] = fmaf(zeta.y, unit_sum, term[1]);
      }
    }
    acc[c][0] = fmaf(x.scale[s][c].scale, term[0], acc[c][0]);
    acc[c][1] = fmaf(x.scale[s][c].scale, term[1], acc[c][1]);
  }
}

// acc[c][r]: this lane's part of row g + 8r times column c.
template <Form F, bool Z, int Q, int S, int C>
__device__ __forceinline__ void MultiplyBinaryTile(const LaunchParams& p, const Tile& at,
                                                   float (&acc)[C][2]) {
  using B = Block<F, Z, Q, S>;
  // With four columns there is enough to compute to need the next block on its way meanwhile.
  constexpr bool kAhead = C > 2;
  const int lane = threadIdx.x & 31;
  const int warp = threadIdx.x >> 5;
  const int warps = blockDim.x >> 5;
  int left = p.units - warp;  // units of this warp are `warps` apart
  const uint8_t* block = at.blocks + (int64_t{at.tile} * p.units + warp) * B::kBytes;
  B w;
  if (left > 0) w.Load(block, lane);
  uint32_t sets = 0;
  float zeta_unit = 1;
  if constexpr (F == Form::kShift) {
    sets = LoadWeights4(at.blocks - kSetsBytes + (lane & 15) * 4);
    if constexpr (Z) zeta_unit = p.out[at.part].zeta_unit;
  }
  const uint32_t* bits = p.x.bits + int64_t{warp} * (2 * C * 32) + lane;
  const ColumnScale* scales = p.x.scales + int64_t{warp} * (2 * S * 8);
  StartNextKernel();
  WaitForPreviousKernel();
#pragma unroll 1
  while (left > 0) {
    B next;
    left -= warps;
    block += warps * B::kBytes;
    if (kAhead && left > 0) next.Load(block, lane);
    BinaryColumns<S, C> x[2];
    x[0].Load(bits, scales);
    if constexpr (C <= 2) x[1].Load(bits + C * 32, scales + S * 8);
#pragma unroll
    for (int s = 0; s < S; ++s) AddSlot(w, 0, s, x[0], sets, zeta_unit, lane, acc);
    if constexpr (C > 2) x[1].Load(bits + C * 32, scales + S * 8);
#pragma unroll
    for (int s = 0; s < S; ++s) AddSlot(w, 1, s, x[1], sets, zeta_unit, lane, acc);
    bits += warps * (2 * C * 32);
    scales += warps * (2 * S * 8);
    if constexpr (kAhead) {
      w = next;
    } else if (left > 0) {
      w.Load(block, lane);
    }
  }
}

// K: the kind of all matrices, or kMixedKinds.
template <int K, int S, int C>
__device__ __forceinline__ void MultiplyBinary(const LaunchParams& p, const Tile& at,
                                               float (&acc)[C][2]) {
  switch (K == kMixedKinds ? p.kind[at.part] : K) {
#define SHIFTADD_CASE(form, zeta, q)                                \
  case KindOf(form, zeta, q):                                       \
    if constexpr (K == kMixedKinds || K == KindOf(form, zeta, q)) { \
      MultiplyBinaryTile<form, zeta, q, S, C>(p, at, acc);          \
    }                                                               \
    break;
    SHIFTADD_FOR_EACH_PLANE_KIND(SHIFTADD_CASE)
#undef SHIFTADD_CASE
  }
}

// C is 1, 2 or 4, x.bit_stride is C. With one slot and one or two columns everything fits 64
// registers, so that 32 warps an SM keep enough reads in flight.
template <int K, int S, int C>
__global__ void __launch_bounds__(C <= 2 ? 512 : 256, C <= 2 ? 3 - S : 4 - S)
    BinaryKernel(const __grid_constant__ LaunchParams p) {
  __shared__ float sums[kMaxWarps][C * kTileRows];
  const int lane = threadIdx.x & 31;
  const int warp = threadIdx.x >> 5;
  const Tile at = FindTile(p);
  float acc[C][2] = {};
  MultiplyBinary<K, S, C>(p, at, acc);
  const float weight = static_cast<float>(1 << (2 * (lane & 3)));
#pragma unroll
  for (int c = 0; c < C; ++c) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float v = acc[c][r] * weight;
      v += __shfl_xor_sync(~0u, v, 1);
      v += __shfl_xor_sync(~0u, v, 2);
      if ((lane & 3) == 0) sums[warp][c * kTileRows + (lane >> 2) + 8 * r] = v;
    }
  }
  __syncthreads();
  // A thread an output; C * 16 is at most 64 and a CTA of one warp has 32.
  const PartOutput& out = p.out[at.part];
  const int warps = blockDim.x >> 5;
  for (int i = threadIdx.x; i < p.x.m * kTileRows; i += blockDim.x) {
    const int token = i / kTileRows, r = i % kTileRows;
    float y = SumOfWarps<C * kTileRows>(&sums[0][token * p.x.digits * kTileRows + r], warps);
    if (C > 1 && p.x.digits == 2) {
      y += SumOfWarps<C * kTileRows>(&sums[0][(token * 2 + 1) * kTileRows + r], warps);
    }
    const int64_t row = int64_t{at.tile} * kTileRows + r;
    if (row < out.n) out.y[token * out.ldy + row] = y * out.unit;
  }
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_BINARY_CUH_
