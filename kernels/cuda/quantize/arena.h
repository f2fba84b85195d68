// Device memory that goes back when its owner does.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_ARENA_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_ARENA_H_

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/cuda/quantize/checks.h"

namespace shiftadd::kernels::quantize {

class Arena {
 public:
  explicit Arena(cudaStream_t stream) : stream_(stream) {}
  ~Arena() {
    for (void* p : blocks_) (void)cudaFreeAsync(p, stream_);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  template <class T>
  void Get(int64_t count, T** out) {
    const size_t bytes = static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(T);
    wanted_ += bytes;
    if (error_ != cudaSuccess) return;
    void* p = nullptr;
    error_ = cudaMallocAsync(&p, bytes, stream_);
    if (error_ != cudaSuccess) {
      (void)cudaGetLastError();
      return;
    }
    blocks_.push_back(p);
    *out = static_cast<T*>(p);
  }
  void GetSplit(int64_t rows, int64_t ld, SplitMatrix* out) {
    out->ld = ld;
    Get(rows * ld, &out->hi);
    Get(rows * ld, &out->lo);
  }
  CudaStatus status() const {
    return ToStatus(error_, "workspace of the quantizer, " + std::to_string(wanted_) + " bytes");
  }

 private:
  const cudaStream_t stream_;
  std::vector<void*> blocks_;
  size_t wanted_ = 0;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_ARENA_H_
