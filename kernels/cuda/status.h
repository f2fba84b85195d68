// CUDA's errors as CudaStatus.
#ifndef SHIFTADD_KERNELS_CUDA_STATUS_H_
#define SHIFTADD_KERNELS_CUDA_STATUS_H_

#include <cuda_runtime.h>

#include <string>

#include "kernels/cuda_linear.h"

namespace shiftadd::kernels::cuda {

inline CudaStatus InvalidArgument(std::string message) {
  return {CudaCode::kInvalidArgument, std::move(message)};
}

// `what` was being done. Clears the runtime's record of the error.
CudaStatus FromCuda(cudaError_t error, const std::string& what);

// Whether `p` is memory that kernels of the current device can use, aligned to `alignment`.
CudaStatus CheckDevicePointer(const void* p, size_t alignment, const char* name);

// "name is found, expected expected" unless low <= found <= high.
CudaStatus CheckRange(const char* name, int64_t found, int64_t low, int64_t high);

}  // namespace shiftadd::kernels::cuda

#define SHIFTADD_CUDA_RETURN_IF_ERROR(expression)                         \
  do {                                                                    \
    if (CudaStatus status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#endif  // SHIFTADD_KERNELS_CUDA_STATUS_H_
