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

// The powers of two of bcq/shift. A look-up (PRMT) takes four set numbers, those of rows g and g+8
// for two slots, to four bytes.
template <Form F, int Q>
struct ShiftFactors {
  uint2 doubled[F == Form::kShift ? Q : 1];  // of each plane, by set
  uint2 sum;
  float zeta_unit;

  __device__ __forceinline__ ShiftFactors(const LaunchParams& p, int part) {
    if constexpr (F == Form::kShift) {
      const ShiftSets& sets = p.sets[part];
#pragma unroll
      for (int i = 0; i < Q; ++i) {
        doubled[i] = make_uint2(sets.words[2 * i], sets.words[2 * i + 1]);
      }
      sum = make_uint2(sets.words[8], sets.words[9]);
      zeta_unit = p.out[part].factors.zeta;
    }
  }
};

__device__ __forceinline__ uint32_t PairBytes(uint32_t first, uint32_t second, bool odd_slot) {
  return PickBytes(first, second, odd_slot ? 0x7362 : 0x5140);
}

// One slot's factors: byte pairs of row g below, of row g+8 above, for the two-way products.
template <int Q>
struct SlotFactors {
  uint32_t low;   // planes 0 and 1
  uint32_t high;  // plane 2, and 3 or (Q = 3) the sum
  uint32_t sum;   // Q = 2, 4: the sum and 0

  __device__ __forceinline__ SlotFactors(const ShiftFactors<Form::kShift, Q>& all, uint32_t sets,
                                         bool odd_slot) {
    uint32_t plane[Q];
#pragma unroll
    for (int i = 0; i < Q; ++i) {
      plane[i] = PickBytes(all.doubled[i].x, all.doubled[i].y, sets);
    }
    const uint32_t sums = PickBytes(all.sum.x, all.sum.y, sets);
    low = PairBytes(plane[0], plane[1], odd_slot);
    high =
        Q == 2 ? 0 : PairBytes(plane[Q - (Q == 4 ? 2 : 1)], Q == 3 ? sums : plane[Q - 1], odd_slot);
    sum = PairBytes(sums, 0, odd_slot);
  }
};

// The two-way product of one row: 16-bit halves of `pair` times the row's two bytes.
__device__ __forceinline__ int RowProduct(int r, uint32_t pair, uint32_t factors, int sum) {
  const int a = static_cast<int>(pair), b = static_cast<int>(factors);
  return r == 0 ? __dp2a_lo(a, b, sum) : __dp2a_hi(a, b, sum);
}

// Counts of row r's planes times their powers of two, less the digits' sum times the sum of those.
// Counts and the sum fit 16 bits: two share a register and are multiplied in one instruction.
template <bool Z, int Q>
__device__ __forceinline__ int ShiftAndAdd(int r, const int (&count)[Q], int digit_sum,
                                           const SlotFactors<Q>& f) {
  const uint32_t minus_sum = Z ? 0 : static_cast<uint32_t>(-digit_sum);
  int sum = 0;
  if constexpr (!Z && Q != 3) sum = RowProduct(r, minus_sum, f.sum, sum);
  sum = RowProduct(r, PickBytes(count[0], count[1], 0x5410), f.low, sum);
  if constexpr (Q > 2) {
    const uint32_t last = Q == 3 ? minus_sum : static_cast<uint32_t>(count[Q - 1]);
    sum = RowProduct(r, PickBytes(count[2], last, 0x5410), f.high, sum);
  }
  return sum;
}

// Adds one slot of one half of a block times C / D tokens to acc. The two digits of 16-bit
// activations (D = 2) are joined as integers: 255 high + low.
template <Form F, bool Z, int Q, int S, int C, int D>
__device__ __forceinline__ void AddSlot(const Block<F, Z, Q, S>& w, int h, int s,
                                        const BinaryColumns<S, C>& x,
                                        const ShiftFactors<F, Q>& factors, int lane,
                                        float (&acc)[C / D][2]) {
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
  if constexpr (F == Form::kFree && !Z) {
#pragma unroll
    for (int i = 0; i < Q; ++i) zeta.x -= scale[i].x, zeta.y -= scale[i].y;
  }
#pragma unroll
  for (int token = 0; token < C / D; ++token) {
    int sum = 0;
    int joined[2][F == Form::kFree ? Q : 1];
#pragma unroll
    for (int d = 0; d < D; ++d) {
      const int c = token * D + d;
      int count[2][Q];
#pragma unroll
      for (int i = 0; i < Q; ++i) {
        int product[4];
        BinaryMma(w.Word(h, i, 0), w.Word(h, i, 1), mine ? x.bits[c] : 0, product);
        count[0][i] = product[0] + sign * product[1];
        count[1][i] = product[2] + sign * product[3];
      }
      const int own_sum = x.scale[s][c].sum & once;
      sum = d == 0 ? own_sum : 255 * sum + own_sum;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if constexpr (F == Form::kFree) {
#pragma unroll
          for (int i = 0; i < Q; ++i) {
            joined[r][i] = d == 0 ? count[r][i] : 255 * joined[r][i] + count[r][i];
          }
        } else {
          const SlotFactors<Q> f(factors, w.sets >> (slot / 2 * 16), slot % 2 != 0);
          const int shifted = ShiftAndAdd<Z, Q>(r, count[r], own_sum, f);
          joined[r][0] = d == 0 ? shifted : 255 * joined[r][0] + shifted;
        }
      }
    }
    float term[2] = {0, 0};
    if constexpr (F == Form::kFree) {
      const float half_sum = 0.5f * static_cast<float>(sum);
      term[0] = zeta.x * half_sum;
      term[1] = zeta.y * half_sum;
#pragma unroll
      for (int i = 0; i < Q; ++i) {
        term[0] = fmaf(scale[i].x, static_cast<float>(joined[0][i]), term[0]);
        term[1] = fmaf(scale[i].y, static_cast<float>(joined[1][i]), term[1]);
      }
    } else {
      term[0] = scale[0].x * static_cast<float>(joined[0][0]);
      term[1] = scale[0].y * static_cast<float>(joined[1][0]);
      if constexpr (Z) {
        const float unit_sum = factors.zeta_unit * static_cast<float>(sum);
        term[0] = fmaf(zeta.x, unit_sum, term[0]);
        term[1] = fmaf(zeta.y, unit_sum, term[1]);
      }
    }
    // The low digit's scale is the token's.
    const float x_scale = x.scale[s][token * D + D - 1].scale;
    acc[token][0] = fmaf(x_scale, term[0], acc[token][0]);
    acc[token][1] = fmaf(x_scale, term[1], acc[token][1]);
  }
}

// The sums of a tile's rows over lanes and warps, to the output. acc[token][r]: this lane's part of
// row g + 8r. `sums` [warps][kTokens * 16] is free.
template <int kTokens>
__device__ __forceinline__ void WriteBinaryTile(const LaunchParams& p, const Tile& at,
                                                const PartOutput& out,
                                                const float (&acc)[kTokens][2], float* sums) {
  constexpr int kStride = kTokens * kTileRows;
  const int lane = threadIdx.x & 31;
  float* const own = sums + (threadIdx.x >> 5) * kStride;
  const float weight = static_cast<float>(1 << (2 * (lane & 3)));
#pragma unroll
  for (int token = 0; token < kTokens; ++token) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float v = acc[token][r] * weight;
      v += __shfl_xor_sync(~0u, v, 1);
      v += __shfl_xor_sync(~0u, v, 2);
      if ((lane & 3) == 0) own[token * kTileRows + (lane >> 2) + 8 * r] = v;
    }
  }
  __syncthreads();
  const int warps = blockDim.x >> 5;
  for (int i = threadIdx.x; i < p.x.m * kTileRows; i += blockDim.x) {
    const float y = SumOfWarps<kStride>(sums + i, warps);
    const int64_t row = int64_t{at.tile} * kTileRows + i % kTileRows;
    if (row < out.n) out.y[i / kTileRows * out.ldy + row] = y * out.unit;
  }
}

// This lane's part of a tile. Takes the tile's first block in w, and loads those that follow.
template <Form F, bool Z, int Q, int S, int C, int D>
__device__ __forceinline__ void AddBinaryTile(const LaunchParams& p, const uint8_t* block,
                                              const ShiftFactors<F, Q>& factors,
                                              Block<F, Z, Q, S>* w, float (&acc)[C / D][2]) {
  const int lane = threadIdx.x & 31;
  const int warp = threadIdx.x >> 5;
  const int warps = blockDim.x >> 5;
  const uint32_t* bits = p.x.bits + int64_t{warp} * (2 * C * 32) + lane;
  const ColumnScale* scales = p.x.scales + int64_t{warp} * (2 * S * 8);
  int left = p.units - warp;  // units of this warp are `warps` apart
#pragma unroll 1
  while (left > 0) {
    BinaryColumns<S, C> x[2];
    x[0].Load(bits, scales);
    if constexpr (C <= 2) x[1].Load(bits + C * 32, scales + S * 8);
#pragma unroll
    for (int s = 0; s < S; ++s) AddSlot<F, Z, Q, S, C, D>(*w, 0, s, x[0], factors, lane, acc);
    if constexpr (C > 2) x[1].Load(bits + C * 32, scales + S * 8);
#pragma unroll
    for (int s = 0; s < S; ++s) AddSlot<F, Z, Q, S, C, D>(*w, 1, s, x[1], factors, lane, acc);
    bits += warps * (2 * C * 32);
    scales += warps * (2 * S * 8);
    left -= warps;
    block += warps * Block<F, Z, Q, S>::kBytes;
    if (left > 0) w->Load(block, lane);
  }
}

// Which of the kernels that multiply a tile a thread block gain by PrefetchTile: it costs the
// others more in one wave of tiles than it brings in several.
template <Form F, int Q, int C, int D>
inline constexpr bool kBinaryPrefetches = F == Form::kShift || D == 2 || C == 1 ||
                                          (C == 2 && Q == 4);

// Which of them gain 1 to 6 % by reading where their sums go while weights are on their way, so
// that no constant comes from memory at the very end. Others lose as much by the registers it
// takes.
template <Form F, int Q, int C, int D>
inline constexpr bool kBinaryReadsOutputEarly = Q != 3 && C == 2 && D == 2 && F == Form::kFree;

template <Form F, bool Z, int Q, int S, int C, int D>
__device__ __forceinline__ void MultiplyBinaryTile(const LaunchParams& p, const Tile& at,
                                                   float* sums) {
  using B = Block<F, Z, Q, S>;
  const uint8_t* block = FirstBlock<B>(p, at);
  B w;
  w.Load(block, threadIdx.x & 31);
  PartOutput early;
  if constexpr (kBinaryReadsOutputEarly<F, Q, C, D>) {
    early = p.out[at.part];
    asm volatile("mov.b64 %0,%0;" : "+l"(early.y));
    asm volatile("mov.b32 %0,%0;" : "+f"(early.unit));
  }
  if constexpr (kBinaryPrefetches<F, Q, C, D>) PrefetchTile<B>(p, at);
  const ShiftFactors<F, Q> factors(p, at.part);
  StartNextKernel();
  WaitForPreviousKernel();
  float acc[C / D][2] = {};
  AddBinaryTile<F, Z, Q, S, C, D>(p, block, factors, &w, acc);
  WriteBinaryTile<C / D>(p, at, kBinaryReadsOutputEarly<F, Q, C, D> ? early : p.out[at.part], acc,
                         sums);
}

// K: the kind of all matrices, or kMixedKinds. C is 1, 2 or 4 and x.bit_stride, D is x.digits. With
// one slot and one or two columns everything fits 64 registers, so that 32 warps an SM keep enough
// reads in flight; with four columns 96 and 20 warps.
template <int K, int S, int C, int D>
__global__ void __launch_bounds__(C <= 2 ? 512 : 320, 3 - S)
    BinaryKernel(const __grid_constant__ LaunchParams p) {
  extern __shared__ float sums[];
  const Tile at = FindTile(p, blockIdx.x);
  switch (K != kMixedKinds ? K : p.kind[at.part]) {
#define SHIFTADD_CASE(form, zeta, q)                                \
  case KindOf(form, zeta, q):                                       \
    if constexpr (K == kMixedKinds || K == KindOf(form, zeta, q)) { \
      MultiplyBinaryTile<form, zeta, q, S, C, D>(p, at, sums);      \
    }                                                               \
    break;
    SHIFTADD_FOR_EACH_PLANE_KIND(SHIFTADD_CASE)
#undef SHIFTADD_CASE
  }
}

// CTAs that share the tiles.
template <Form F, bool Z, int Q, int C, int D>
__global__ void __launch_bounds__(512, 2)
    SharedBinaryKernel(const __grid_constant__ LaunchParams p) {
  using B = Block<F, Z, Q, 1>;
  extern __shared__ float sums[];
  uint32_t index = blockIdx.x;
  Tile at = FindTile(p, index);
  const uint8_t* block = FirstBlock<B>(p, at);
  B w;
  w.Load(block, threadIdx.x & 31);
  StartNextKernel();
  WaitForPreviousKernel();
  const int buffer = (blockDim.x >> 5) * (C / D) * kTileRows;
#pragma unroll 1
  for (int offset = 0;; offset = buffer - offset) {
    PrefetchTile<B>(p, at);
    float acc[C / D][2] = {};
    {
      const ShiftFactors<F, Q> factors(p, at.part);
      AddBinaryTile<F, Z, Q, 1, C, D>(p, block, factors, &w, acc);
    }
    const Tile done = at;
    index += gridDim.x;
    if (index < p.tiles) {
      at = FindTile(p, index);
      block = FirstBlock<B>(p, at);
      w.Load(block, threadIdx.x & 31);
    }
    // Warps that are behind may still read the other buffer: they are by one tile at most.
    WriteBinaryTile<C / D>(p, done, p.out[done.part], acc, sums + offset);
    if (index >= p.tiles) return;
  }
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_BINARY_CUH_
