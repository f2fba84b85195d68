// What the two tensor-core kernels share: finding a CTA's tile, loading a block, the last sum.
//
// A CTA multiplies one tile of 16 rows; its warps share the units of K, round robin. Kernels that
// share tiles multiply tile blockIdx.x and every gridDim.x-th from there: the first block of the
// next tile is on its way while a tile's sums are written, so that no tile but the first waits for
// memory with nothing else to do.
#ifndef SHIFTADD_KERNELS_CUDA_TILE_CUH_
#define SHIFTADD_KERNELS_CUDA_TILE_CUH_

#include "kernels/cuda/device_ops.cuh"

namespace shiftadd::kernels::cuda {

inline constexpr int kMaxWarps = 16;

// A tile and its matrix.
struct Tile {
  int part;
  uint32_t tile;          // of that matrix
  const uint8_t* blocks;  // of that matrix
};

// The tile of that number, over all matrices.
__device__ __forceinline__ Tile FindTile(const LaunchParams& p, uint32_t index) {
  Tile at = {0, index, p.blocks[0]};
#pragma unroll
  for (int i = 1; i < kMaxCudaProducts; ++i) {
    if (index >= p.first_tile[i]) at = {i, index - p.first_tile[i], p.blocks[i]};
  }
  return at;
}

// The first block of a tile that this warp multiplies.
template <typename B>
__device__ __forceinline__ const uint8_t* FirstBlock(const LaunchParams& p, const Tile& at) {
  return at.blocks + uint64_t{at.tile * p.units + (threadIdx.x >> 5)} * B::kBytes;
}

// Asks for the beginning of a later tile of the same matrix in L2, so that the memory has something
// to read while a tile's sums are written and the next one starts.
template <typename B>
__device__ __forceinline__ void PrefetchTile(const LaunchParams& p, const Tile& at) {
  // The last warp has the fewest units.
  if (p.ahead == 0 || threadIdx.x != blockDim.x - 32) return;
  const uint32_t tile = at.tile + p.ahead;
  if (tile * kTileRows >= static_cast<uint32_t>(p.out[at.part].n)) return;
  PrefetchToL2(at.blocks + uint64_t{tile} * p.units * B::kBytes, p.ahead_units * B::kBytes);
}

// Scales of rows g and g+8 for the 2S slots of a unit.
template <int S>
__device__ __forceinline__ void LoadPairs(const uint8_t* at, uint32_t (&out)[2 * S]) {
  if constexpr (S == 1) {
    const uint2 v = LoadWeights8(at);
    out[0] = v.x, out[1] = v.y;
  } else {
    const uint4 v = LoadWeights16(at);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
  }
}

// One lane's share of a block of bcq/shift or bcq/free.
template <Form F, bool Z, int Q, int S>
struct Block {
  static constexpr int kBytes = BlockBytes(F, Q, Z, S);
  static constexpr int kScales = F == Form::kFree ? Q : 1;
  static constexpr bool kHasSets = F == Form::kShift;

  uint4 planes[Q];
  uint32_t scale[kScales][2 * S];  // F16 pairs
  uint32_t zeta[Z ? 2 * S : 1];
  uint32_t sets;  // shift: a byte a slot: set of row g | set of row g+8 << 4

  __device__ __forceinline__ void Load(const uint8_t* block, int lane) {
    const int g = lane >> 2;
#pragma unroll
    for (int i = 0; i < Q; ++i) planes[i] = LoadWeights16(block + i * 512 + lane * 16);
    const uint8_t* at = block + PlaneBytes(F, Q);
#pragma unroll
    for (int i = 0; i < kScales; ++i) LoadPairs<S>(at + i * 64 * S + g * 8 * S, scale[i]);
    if constexpr (F == Form::kShift) {
      sets = S == 1 ? LoadWeights2(at + 64 + g * 2) : LoadWeights4(at + 128 + g * 4);
    }
    if constexpr (Z) LoadPairs<S>(block + ZetaOffset(F, Q, S) + g * 8 * S, zeta);
  }

  // Plane i of half h, row g + 8r.
  __device__ __forceinline__ uint32_t Word(int h, int i, int r) const {
    const int word = (h * Q + i) * 2 + r;
    const uint4& v = planes[word / 4];
    return word % 4 == 0 ? v.x : word % 4 == 1 ? v.y : word % 4 == 2 ? v.z : v.w;
  }
};

// The sum over warps of kStride floats each, in the order of the warps.
template <int kStride, int kMost = kMaxWarps>
__device__ __forceinline__ float SumOfWarps(const float* first, int warps) {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kMost; ++w) {
    if (w < warps) sum += first[w * kStride];
  }
  return sum;
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_TILE_CUH_
