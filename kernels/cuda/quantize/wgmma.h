// The Hopper way through a product tile (split_gemm.h): warpgroup matrix instructions that read
// both operands from shared memory. Compiled for sm_90a only.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_WGMMA_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_WGMMA_H_

#include <cstdint>

#include "kernels/cuda/quantize/platform.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SHIFTADD_HAS_WGMMA 1

namespace shiftadd::kernels::quantize {

// A panel for wgmma: 128 rows of 64 fp16 (128 bytes), its eight 16-byte pieces swizzled by the row;
// 1024-byte aligned.
inline constexpr int kWidePanelBytes = 128 * 128;

__device__ __forceinline__ int WidePanelAt(int row, int piece) {
  return row * 128 + ((piece ^ (row & 7)) << 4);
}

// Rows [first, first + 128) x inner [at, at + 64) of `from`, zeros beyond `rows` and `inner` (a
// multiple of 8). By 256 threads.
__device__ __forceinline__ void CopyWidePanel(const __half* from, int64_t ld, int64_t first,
                                              int64_t rows, int64_t at, int64_t inner,
                                              char* panel) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int index = static_cast<int>(threadIdx.x) + i * 256;
    const int row = index / 8, piece = index % 8;
    const bool inside = first + row < rows && at + piece * 8 < inner;
    CopyAsync16(panel + WidePanelAt(row, piece),
                from + (inside ? (first + row) * ld + at + piece * 8 : 0), inside);
  }
}

// Matrix descriptor of rows from `panel`, inner 16 * step: 128-byte swizzle, 8 rows 1024 bytes
// apart.
__device__ __forceinline__ uint64_t Descriptor(const char* panel, int step) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(panel)) + step * 32;
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | uint64_t{1} << 16 | uint64_t{64} << 32 |
         uint64_t{1} << 62;
}

// Shared memory written by this thread's copies becomes visible to wgmma; a barrier must follow.
__device__ __forceinline__ void FenceShared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void WgmmaFence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// c (64 x 128 of the warpgroup) = a b^T, or += if `add`. Thread t of the warpgroup holds rows
// t / 32 * 16 + t % 32 / 4 (c[j][0..1]) and 8 below (c[j][2..3]), columns j * 8 + t % 4 * 2 and
// next.
__device__ __forceinline__ void Wgmma(uint64_t a, uint64_t b, bool add, float (&c)[16][4]) {
#define SHIFTADD_C(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, add, 1, 1, 0, 0;\n}\n"
      : SHIFTADD_C(0), SHIFTADD_C(1), SHIFTADD_C(2), SHIFTADD_C(3), SHIFTADD_C(4), SHIFTADD_C(5),
        SHIFTADD_C(6), SHIFTADD_C(7), SHIFTADD_C(8), SHIFTADD_C(9), SHIFTADD_C(10), SHIFTADD_C(11),
        SHIFTADD_C(12), SHIFTADD_C(13), SHIFTADD_C(14), SHIFTADD_C(15)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
#undef SHIFTADD_C
}

}  // namespace shiftadd::kernels::quantize

#endif  // __CUDA_ARCH_FEAT_SM90_ALL
#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_WGMMA_H_
