// y = x W^T for few tokens on the binary tensor cores: planes are multiplied as they are stored.
//
// The 8 bits of a column's int8 digits are the 8 columns of an m16n8k128 AND-popcount product (bit
// 7 weighs -128). A lane gets bits 2t and 2t+1 for rows g and g+8; the four lanes of a row weigh
// 4^t and meet at the very end.
#ifndef SHIFTADD_KERNELS_CUDA_BINARY_CUH_
#define SHIFTADD_KERNELS_CUDA_BINARY_CUH_

#include "kernels/cuda/tile.cuh"

namespace shiftadd::kernels::cuda {

// Columns of one half: their bits and, each slot, scale and sum. Lanes with t > 0 take a sum of 0:
// it must enter a row once.
template <int S, int C>
struct BinaryColumns {
  uint32_t bits[C];
  float scale[C][S];
  int32_t sum[C][S];

  __device__ __forceinline__ void Load(const DeviceActivations& x, int half, int column, int lane) {
#pragma unroll
    for (int c = 0; c < C; ++c) {
      const bool inside = column + c < x.columns;
      bits[c] = 0;
      if (inside) {
        bits[c] = LoadActivations4(x.bits + (int64_t{half} * x.columns + column + c) * 32 + lane);
      }
#pragma unroll
      for (int s = 0; s < S; ++s) {
        ColumnScale v = {0, 0};
        if (inside) {
          v = LoadScale(x.scales + (int64_t{half} * S + s) * x.columns + column + c);
        }
        scale[c][s] = v.scale;
        sum[c][s] = (lane & 3) == 0 ? v.sum : 0;
      }
    }
  }
};

// Adds one slot of one half of a block times C columns to acc.
template <Form F, bool Z, int Q, int S, int C>
__device__ __forceinline__ void AddSlot(const Block<F, Z, Q, S>& w, int h, int s,
                                        const BinaryColumns<S, C>& x, uint32_t table,
                                        float zeta_unit, int lane, float (*acc)[2]) {
  const int t = lane & 3;
  const int sign = t == 3 ? -2 : 2;
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
      set[r] = __shfl_sync(~0u, table, w.sets >> (8 * slot + 4 * r), 16);
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
    const int sum = x.sum[c][s];
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
    acc[c][0] = fmaf(x.scale[c][s], term[0], acc[c][0]);
    acc[c][1] = fmaf(x.scale[c][s], term[1], acc[c][1]);
  }
}

// acc[c][r]: this lane's part of row g + 8r times column c.
template <Form F, bool Z, int Q, int S, int C>
__device__ __forceinline__ void MultiplyBinaryTile(const Part& part, uint32_t tile, int units,
                                                   const DeviceActivations& x, float (&acc)[C][2]) {
  using B = Block<F, Z, Q, S>;
  const int lane = threadIdx.x & 31;
  const int warps = blockDim.x >> 5;
  const uint8_t* first = part.blocks + int64_t{tile} * units * B::kBytes;
  B w;
  int unit = threadIdx.x >> 5;
  if (unit < units) w.Load(first + unit * B::kBytes, lane);
  StartNextKernel();
  WaitForPreviousKernel();
  const uint32_t table = F == Form::kShift ? part.table[lane & 15].x : 0;
  // Up to two columns are loaded for both halves at once.
  constexpr int kBatch = C <= 2 ? C : 1;
#pragma unroll 1
  while (unit < units) {
    BinaryColumns<S, kBatch> columns[C <= 2 ? 2 : 1];
    if constexpr (C <= 2) {
      columns[0].Load(x, unit * 2, 0, lane);
      columns[1].Load(x, unit * 2 + 1, 0, lane);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int c = 0; c < C; c += kBatch) {
        BinaryColumns<S, kBatch>& batch = columns[C <= 2 ? h : 0];
        if constexpr (C > 2) batch.Load(x, unit * 2 + h, c, lane);
#pragma unroll
        for (int s = 0; s < S; ++s) {
          AddSlot<F, Z, Q, S, kBatch>(w, h, s, batch, table, part.zeta_unit, lane, acc + c);
        }
      }
    }
    unit += warps;
    if (unit < units) w.Load(first + int64_t{unit} * B::kBytes, lane);
  }
}

template <int S, int C>
__device__ __forceinline__ void MultiplyBinary(const Part& part, uint32_t tile, int units,
                                               const DeviceActivations& x, float (&acc)[C][2]) {
  switch (part.kind) {
#define SHIFTADD_CASE(form, zeta, q)                                    \
  case KindOf(form, zeta, q):                                           \
    MultiplyBinaryTile<form, zeta, q, S, C>(part, tile, units, x, acc); \
    break;
    SHIFTADD_CASE(Form::kShift, false, 2)
    SHIFTADD_CASE(Form::kShift, false, 3)
    SHIFTADD_CASE(Form::kShift, false, 4)
    SHIFTADD_CASE(Form::kShift, true, 2)
    SHIFTADD_CASE(Form::kShift, true, 3)
    SHIFTADD_CASE(Form::kShift, true, 4)
    SHIFTADD_CASE(Form::kFree, false, 2)
    SHIFTADD_CASE(Form::kFree, false, 3)
    SHIFTADD_CASE(Form::kFree, false, 4)
    SHIFTADD_CASE(Form::kFree, true, 2)
    SHIFTADD_CASE(Form::kFree, true, 3)
    SHIFTADD_CASE(Form::kFree, true, 4)
#undef SHIFTADD_CASE
  }
}

// C: columns, x.columns <= C. With one slot and one or two columns everything fits 64 registers, so
// that 32 warps an SM keep enough reads in flight.
template <int S, int C>
__global__ void __launch_bounds__(C <= 2 ? 512 : 256, C <= 2 ? 3 - S : 4 - S)
    BinaryKernel(const __grid_constant__ LaunchParams p) {
  __shared__ float sums[kMaxWarps][C * kTileRows];
  const int lane = threadIdx.x & 31;
  const int warp = threadIdx.x >> 5;
  const TileOf at = FindTile(p);
  const Part& part = p.parts[at.part];
  float acc[C][2] = {};
  MultiplyBinary<S, C>(part, at.tile, p.units, p.x, acc);
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
  const int warps = blockDim.x >> 5;
  for (int i = threadIdx.x; i < p.x.m * kTileRows; i += blockDim.x) {
    const int token = i / kTileRows;
    const int64_t row = int64_t{at.tile} * kTileRows + i % kTileRows;
    float y = 0;
    for (int d = 0; d < p.x.digits; ++d) {
      const float* first = &sums[0][(token * p.x.digits + d) * kTileRows + i % kTileRows];
      y += SumOfWarps<C * kTileRows>(first, warps);
    }
    if (row < part.n) part.y[token * part.ldy + row] = y * part.unit;
  }
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_BINARY_CUH_
