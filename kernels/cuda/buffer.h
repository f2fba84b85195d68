// Owned device memory.
#ifndef SHIFTADD_KERNELS_CUDA_BUFFER_H_
#define SHIFTADD_KERNELS_CUDA_BUFFER_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <utility>

#include "kernels/cuda/status.h"

namespace shiftadd::kernels::cuda {

class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) (void)cudaFree(data_);
  }

  // Once; a size of 0 leaves the buffer empty.
  CudaStatus Allocate(size_t size) {
    if (size == 0) return {};
    size_ = size;
    return FromCuda(cudaMalloc(&data_, size), "allocating " + std::to_string(size) + " bytes");
  }
  // Allocates and copies from the host; null leaves the buffer empty.
  CudaStatus Upload(const void* from, size_t size, cudaStream_t stream) {
    if (from == nullptr) return {};
    SHIFTADD_CUDA_RETURN_IF_ERROR(Allocate(size));
    return FromCuda(cudaMemcpyAsync(data_, from, size, cudaMemcpyHostToDevice, stream),
                    "copying to the device");
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_BUFFER_H_
