// What every CUDA entry point of the kernels returns, and how streams are named. Plain C++.
#ifndef SHIFTADD_KERNELS_CUDA_TYPES_H_
#define SHIFTADD_KERNELS_CUDA_TYPES_H_

#include <string>

namespace shiftadd::kernels {

enum class CudaCode {
  kOk,
  kInvalidArgument,
  kUnavailable,  // no device, no driver or one too old, or a device that this build has no code for
  kOutOfMemory,
  kInternal,  // a launch or copy failed
};

struct CudaStatus {
  CudaCode code = CudaCode::kOk;
  std::string message;  // names what was found and what was expected; empty if ok

  bool ok() const { return code == CudaCode::kOk; }
};

// A cudaStream_t; null is the default stream.
using CudaStream = void*;

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_CUDA_TYPES_H_
