// y = x W^T for many tokens on the int8 tensor cores: a CTA multiplies kPromptTiles tiles of 16
// rows, one a warp, with 64 columns. Activations of a unit are copied to shared memory, where all
// warps read them, while those of the unit before are multiplied.
#ifndef SHIFTADD_KERNELS_CUDA_PROMPT_CUH_
#define SHIFTADD_KERNELS_CUDA_PROMPT_CUH_

#include "kernels/cuda/integer_product.cuh"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {

inline constexpr int kPromptWarps = kPromptTiles;

// One unit of 64 columns, one slot a half.
struct PromptColumns {
  uint4 bytes[2][kPromptGroups8][2][32];
  ColumnScale scales[2][kPromptGroups8 * 8];
};

__device__ __forceinline__ void CopyAsync16(void* to, const void* from) {
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(shared), "l"(from) : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ __forceinline__ void WaitForCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Starts copying unit `unit` of the CTA's columns.
__device__ __forceinline__ void CopyUnit(const DeviceActivations& x, int unit, PromptColumns* to) {
  constexpr int kBytes16 = kPromptGroups8 * 64;  // of a half
  constexpr int kScales16 = kPromptGroups8 * 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t group = (int64_t{unit} * 2 + h) * x.groups8 + blockIdx.y * kPromptGroups8;
    const uint4* bytes = x.bytes + group * 64;
    auto* to_bytes = reinterpret_cast<uint4*>(to->bytes[h]);
    for (int i = threadIdx.x; i < kBytes16; i += blockDim.x) CopyAsync16(to_bytes + i, bytes + i);
    const auto* scales = reinterpret_cast<const uint4*>(x.scales + group * 8);
    auto* to_scales = reinterpret_cast<uint4*>(to->scales[h]);
    for (int i = threadIdx.x; i < kScales16; i += blockDim.x) {
      CopyAsync16(to_scales + i, scales + i);
    }
  }
  CommitCopies();
}

// B fragments in shared memory; two steps are read at a time.
struct SharedFragments {
  const uint4 (*at)[2][32];
  int lane;
  uint4 now[kPromptGroups8];

  __device__ __forceinline__ uint2 Step(int n, int j) {
    if (j % 2 == 0) now[n] = at[n][j / 2][lane];
    return j % 2 == 0 ? make_uint2(now[n].x, now[n].y) : make_uint2(now[n].z, now[n].w);
  }
};

struct SharedScales {
  const ColumnScale* at;  // of this lane's first column

  __device__ __forceinline__ ColumnScale At(int /*slot*/, int n, int e) const {
    return at[n * 8 + e];
  }
};

template <typename B>
__global__ void __launch_bounds__(kPromptWarps * 32, 2)
    PromptKernel(const __grid_constant__ LaunchParams p) {
  __shared__ PromptColumns columns[2];
  __shared__ uint2 tables[kMaxTiledSets];
  const int lane = threadIdx.x & 31;
  // Warps beyond the last tile multiply it again and do not store.
  const PartOutput& out = p.out[0];
  const uint32_t last = (out.n - 1) / kTileRows;
  const uint32_t own = blockIdx.x * kPromptWarps + threadIdx.x / 32;
  const uint8_t* block = p.blocks[0] + uint64_t{(own < last ? own : last) * p.units} * B::kBytes;
  B w;
  w.Load(block, lane);
  LoadTables<B>(p, 0, tables);
  StartNextKernel();
  WaitForPreviousKernel();
  CopyUnit(p.x, 0, &columns[0]);
  float acc[kPromptGroups8][4] = {};
#pragma unroll 1
  for (int unit = 0; unit < p.units; ++unit) {
    WaitForCopies();
    __syncthreads();  // everybody's copies are there, and the other buffer was read
    PromptColumns& now = columns[unit % 2];
    if (unit + 1 < p.units) CopyUnit(p.x, unit + 1, &columns[(unit + 1) % 2]);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      SharedFragments x = {now.bytes[h], lane, {}};
      const SharedScales scales = {now.scales[h] + 2 * (lane % 4)};
      AddHalf(w, h, x, scales, tables, out.factors, lane, acc);
    }
    block += B::kBytes;
    if (unit + 1 < p.units) w.Load(block, lane);
  }
  const int64_t row = int64_t{own} * kTileRows + lane / 4;
#pragma unroll
  for (int n = 0; n < kPromptGroups8; ++n) {
    const int64_t column = (int64_t{blockIdx.y} * kPromptGroups8 + n) * 8 + 2 * (lane % 4);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float first = acc[n][2 * r] * out.unit, second = acc[n][2 * r + 1] * out.unit;
      if (row + 8 * r >= out.n) continue;
      float* y = out.y + row + 8 * r;
      if (p.x.digits == 2) {
        if (column < p.x.columns) y[column / 2 * out.ldy] = first + second;
      } else {
        if (column < p.x.columns) y[column * out.ldy] = first;
        if (column + 1 < p.x.columns) y[(column + 1) * out.ldy] = second;
      }
    }
  }
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_PROMPT_CUH_
