// cuBLAS, opened at run time: nothing here needs it to be built or started.
#ifndef SHIFTADD_KERNELS_CUDA_CUBLAS_H_
#define SHIFTADD_KERNELS_CUDA_CUBLAS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/cuda/buffer.h"
#include "kernels/cuda/status.h"

namespace shiftadd::kernels::cuda {

// y [m, n] = *factor x [m, k] w [n, k]^T; fp16 operands, sums in fp32. Row strides in elements.
struct HalfProduct {
  const void* x = nullptr;
  const void* w = nullptr;
  void* y = nullptr;  // float, or fp16
  int64_t ldx = 0, ldw = 0, ldy = 0;
  int64_t m = 0, n = 0, k = 0;
  const float* factor = nullptr;  // device
  const float* zero = nullptr;    // device
  bool half_output = false;
};

// A handle on the current device, with a workspace of its own. Not thread-safe.
class Cublas {
 public:
  // kUnavailable, with the reason, if the library is not there or lacks something.
  static CudaStatus Open(std::unique_ptr<Cublas>* out);
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;
  ~Cublas();

  CudaStatus Multiply(const HalfProduct& p, cudaStream_t stream);
  const std::string& version() const { return version_; }
  uint64_t bytes() const { return workspace_.size(); }

 private:
  using Create = int (*)(void**);
  using Destroy = int (*)(void*);
  using GetVersion = int (*)(void*, int*);
  using SetStream = int (*)(void*, cudaStream_t);
  using SetWorkspace = int (*)(void*, void*, size_t);
  using SetPointerMode = int (*)(void*, int);
  using Gemm = int (*)(void*, int, int, int64_t, int64_t, int64_t, const void*, const void*, int,
                       int64_t, const void*, int, int64_t, const void*, void*, int, int64_t, int,
                       int);

  Cublas() = default;
  CudaStatus FindSymbols(void* library);

  Create create_ = nullptr;
  Destroy destroy_ = nullptr;
  GetVersion get_version_ = nullptr;
  SetStream set_stream_ = nullptr;
  SetWorkspace set_workspace_ = nullptr;
  SetPointerMode set_pointer_mode_ = nullptr;
  Gemm gemm_ = nullptr;
  void* handle_ = nullptr;
  std::string version_;
  Buffer workspace_;
};

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_CUBLAS_H_
