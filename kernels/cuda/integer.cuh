// y = x W^T for 8 columns and more on the int8 or fp16 tensor cores.
#ifndef SHIFTADD_KERNELS_CUDA_INTEGER_CUH_
#define SHIFTADD_KERNELS_CUDA_INTEGER_CUH_

#include <type_traits>

#include "kernels/cuda/half_product.cuh"
#include "kernels/cuda/integer_product.cuh"

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

// Scales of the columns that a lane's results belong to, each slot: 8n + 2t and the next.
template <int S, int N8>
struct ResultScales {
  ColumnScale of[S][N8][2];

  __device__ __forceinline__ void Load(const ColumnScale* at, int slot_stride) {
#pragma unroll
    for (int s = 0; s < S; ++s) {
#pragma unroll
      for (int n = 0; n < N8; ++n) LoadTwoScales(at + s * slot_stride + n * 8, of[s][n]);
    }
  }
  __device__ __forceinline__ const ColumnScale& At(int s, int n, int e) const {
    return of[s][n][e];
  }
};

// The sums of a tile over warps, to the output. acc[n][e]: row g + 8 (e / 2), column 8n + 2t + e %
// 2 of the CTA's. `sums` [warps][8 N8 * 16] is free.
template <int N8>
__device__ __forceinline__ void WriteIntegerTile(const LaunchParams& p, const Tile& at,
                                                 const float (&acc)[N8][4], float* sums) {
  constexpr int kStride = N8 * 8 * kTileRows;
  float4* const own = reinterpret_cast<float4*>(sums + (threadIdx.x >> 5) * kStride);
#pragma unroll
  for (int n = 0; n < N8; ++n) {
    own[n * 32 + (threadIdx.x & 31)] = make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
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
    const float* first = sums + holder * 4 + r / 8 * 2 + column % 2;
    float y = SumOfWarps<kStride, kMaxWarps / 2>(first, warps);
    if (p.x.digits == 2) y += SumOfWarps<kStride, kMaxWarps / 2>(first + 1, warps);
    const int64_t row = int64_t{at.tile} * kTileRows + r;
    const int64_t to = int64_t{blockIdx.y} * tokens + token;
    if (row < out.n && to < p.x.m) out.y[to * out.ldy + row] = y * out.unit;
  }
}

// What a lane reads of the activations: strides of a half, and where its first one is.
template <int S, int N8>
struct IntegerInput {
  // With one or two groups of columns the stride of a half is known.
  int groups8;
  const uint4* bytes;
  const ColumnScale* scales;

  __device__ __forceinline__ explicit IntegerInput(const LaunchParams& p)
      : groups8(N8 <= 2 ? N8 : p.x.groups8) {
    const int lane = threadIdx.x & 31;
    const int64_t unit = threadIdx.x >> 5;
    // Columns that are not there are never stored: lanes that would read them read column 0.
    const int fragment = lane / 4 < p.x.columns ? lane : lane % 4;
    bytes = p.x.bytes + unit * 2 * half_bytes() + blockIdx.y * N8 * 64 + fragment;
    scales = p.x.scales + unit * 2 * half_scales() + blockIdx.y * N8 * 8 + 2 * (lane % 4);
  }
  __device__ __forceinline__ int half_bytes() const { return groups8 * 64; }  // in uint4
  __device__ __forceinline__ int half_scales() const { return S * groups8 * 8; }
  __device__ __forceinline__ void Skip(int units) {
    bytes += units * 2 * half_bytes();
    scales += units * 2 * half_scales();
  }
};

// Adds a block times its columns to acc.
template <typename B, int S, int N8>
__device__ __forceinline__ void AddIntegerBlock(const B& w, const IntegerInput<S, N8>& input,
                                                const uint2* tables, const Factors& factors,
                                                float (&acc)[N8][4]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    IntegerColumns<N8> x;
    x.Load(input.bytes + h * input.half_bytes());
    ResultScales<S, N8> of;
    of.Load(input.scales + h * input.half_scales(), input.groups8 * 8);
    AddHalf(w, h, x, of, tables, factors, threadIdx.x & 31, acc);
  }
}

// As kBinaryPrefetches.
template <typename B, int N8>
inline constexpr bool kIntegerPrefetches =
    !(N8 == 2 && std::is_same_v<B, Block<Form::kShift, false, 3, 1>>)&&!(
        N8 == 1 && std::is_same_v<B, Block<Form::kFree, true, 2, 1>>);

template <typename B, int S, int N8>
__device__ __forceinline__ void MultiplyIntegerTile(const LaunchParams& p, const Tile& at,
                                                    float* sums) {
  const int lane = threadIdx.x & 31;
  const int warps = blockDim.x >> 5;
  int left = p.units - static_cast<int>(threadIdx.x >> 5);  // units of a warp are `warps` apart
  const uint8_t* block = FirstBlock<B>(p, at);
  B w;
  w.Load(block, lane);
  if constexpr (kIntegerPrefetches<B, N8>) {
    if (blockIdx.y == 0) PrefetchTile<B>(p, at);
  }
  __shared__ uint2 tables[kMaxTiledSets];
  LoadTables<B>(p, at.part, tables);
  if constexpr (B::kHasSets) __syncthreads();
  const Factors factors = p.out[at.part].factors;
  IntegerInput<S, N8> input(p);
  StartNextKernel();
  WaitForPreviousKernel();
  float acc[N8][4] = {};
#pragma unroll 1
  while (left > 0) {
    // The next block is on its way while this one is decoded.
    B next;
    left -= warps;
    block += warps * B::kBytes;
    if (left > 0) next.Load(block, lane);
    AddIntegerBlock(w, input, tables, factors, acc);
    input.Skip(warps);
    w = next;
  }
  WriteIntegerTile<N8>(p, at, acc, sums);
}

// Register limits by what was fastest: bcq/shift fits 96 with one group of columns, for 20 warps an
// SM, and 128 with four, for 16; so do two planes of bcq/free.
constexpr int IntegerThreads(int kind, int n8, bool halves) {
  if (kind < 0 || halves) return 256;
  const bool shift = kind < KindOf(Form::kFree, false, 2);
  const bool free2 = kind == KindOf(Form::kFree, false, 2) || kind == KindOf(Form::kFree, true, 2);
  if (n8 == 4) return shift || free2 ? 512 : 256;
  return n8 == 1 && shift ? 320 : 256;
}

// K: the kind of all matrices, or kMixedKinds. kHalves: planes to fp16, not to integers. N8 is 1, 2
// (x.groups8 is the same) or 4; columns [8 N8 blockIdx.y, …).
template <int K, int S, int N8, bool kHalves = false>
__global__ void __launch_bounds__(IntegerThreads(K, N8, kHalves), N8 == 4 ? 1 : 3 - S)
    IntegerKernel(const __grid_constant__ LaunchParams p) {
  extern __shared__ __align__(16) float sums[];
  const Tile at = FindTile(p, blockIdx.x);
  switch (K == kMixedKinds ? p.kind[at.part] : K) {
#define SHIFTADD_CASE(form, zeta, q)                                                         \
  case KindOf(form, zeta, q):                                                                \
    if constexpr (K == kMixedKinds || K == KindOf(form, zeta, q)) {                          \
      using B = Block<form, zeta, q, S>;                                                     \
      MultiplyIntegerTile<std::conditional_t<kHalves, HalfBlock<B>, B>, S, N8>(p, at, sums); \
    }                                                                                        \
    break;
    SHIFTADD_FOR_EACH_PLANE_KIND(SHIFTADD_CASE)
#undef SHIFTADD_CASE
    case KindOf(Form::kInt8, false, 0):
      if constexpr (K == kMixedKinds || K == KindOf(Form::kInt8, false, 0)) {
        MultiplyIntegerTile<CodeBlock<S>, S, N8>(p, at, sums);
      }
      break;
  }
}

// CTAs that share the tiles; one slot.
template <typename B, int N8>
__global__ void __launch_bounds__(256, 2)
    SharedIntegerKernel(const __grid_constant__ LaunchParams p) {
  extern __shared__ __align__(16) float sums[];
  __shared__ uint2 tables[kMaxCudaProducts][kMaxTiledSets];
  const int lane = threadIdx.x & 31;
  const int warps = blockDim.x >> 5;
  uint32_t index = blockIdx.x;
  Tile at = FindTile(p, index);
  const uint8_t* block = FirstBlock<B>(p, at);
  B w;
  w.Load(block, lane);
#pragma unroll
  for (int i = 0; i < kMaxCudaProducts; ++i) LoadTables<B>(p, i, tables[i]);
  __syncthreads();
  StartNextKernel();
  WaitForPreviousKernel();
  const int buffer = warps * N8 * 8 * kTileRows;
#pragma unroll 1
  for (int offset = 0;; offset = buffer - offset) {
    const Tile now = at;
    if (blockIdx.y == 0) PrefetchTile<B>(p, now);
    const Factors factors = p.out[now.part].factors;
    IntegerInput<1, N8> input(p);
    float acc[N8][4] = {};
    int left = p.units - static_cast<int>(threadIdx.x >> 5);
#pragma unroll 1
    while (left > 0) {
      B next;
      left -= warps;
      block += warps * B::kBytes;
      if (left <= 0) {
        index += gridDim.x;
        if (index < p.tiles) {
          at = FindTile(p, index);
          block = FirstBlock<B>(p, at);
        }
      }
      if (index < p.tiles) next.Load(block, lane);
      AddIntegerBlock(w, input, tables[now.part], factors, acc);
      input.Skip(warps);
      w = next;
    }
    // Warps that are behind may still read the other buffer: they are by one tile at most.
    WriteIntegerTile<N8>(p, now, acc, sums + offset);
    if (index >= p.tiles) return;
  }
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_INTEGER_CUH_
