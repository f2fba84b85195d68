// How fast this GPU reads memory with nothing to compute: the floor of a product that must read its
// weights once.
#ifndef SHIFTADD_KERNELS_BENCHMARKS_READ_FLOOR_H_
#define SHIFTADD_KERNELS_BENCHMARKS_READ_FLOOR_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace shiftadd::kernels {

inline constexpr int kReadVariants = 6;

// Reads `bytes` (a multiple of 16) at `data` once, in one of kReadVariants ways. `sink` is one
// word.
cudaError_t LaunchRead(int variant, const void* data, int64_t bytes, uint32_t* sink,
                       cudaStream_t stream);

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_BENCHMARKS_READ_FLOOR_H_
