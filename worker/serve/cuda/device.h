// CUDA's errors as absl::Status, and owned memory.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_DEVICE_H_
#define SHIFTADD_WORKER_SERVE_CUDA_DEVICE_H_

#include <cuda_runtime.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda_linear.h"

namespace shiftadd::cuda {

using kernels::cuda::Buffer;

// kUnavailable becomes FAILED_PRECONDITION: another try does not help.
absl::Status ToStatus(const kernels::CudaStatus& status);
// `what` was being done. Clears the runtime's record of the error.
absl::Status ToStatus(cudaError_t error, absl::string_view what);

// Names of the current device and driver: "NVIDIA H100 80GB HBM3 (compute capability 9.0, …)".
// FAILED_PRECONDITION says what is missing: a driver, a newer one, a device, code for the device.
absl::StatusOr<std::string> DescribeDevice();

struct DeviceMemory {
  size_t free = 0, total = 0;
};
absl::StatusOr<DeviceMemory> AskMemory();

// A stream of its own.
class Stream {
 public:
  static absl::StatusOr<Stream> Create();
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&&) = delete;
  ~Stream() {
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const { return stream_; }
  absl::Status Wait() const { return ToStatus(cudaStreamSynchronize(stream_), "waiting"); }

 private:
  explicit Stream(cudaStream_t stream) : stream_(stream) {}
  cudaStream_t stream_;
};

// Page-locked host memory.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(PinnedBuffer&& other) noexcept { *this = std::move(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~PinnedBuffer() {
    if (data_ != nullptr) (void)cudaFreeHost(data_);
  }
  absl::Status Allocate(size_t size);  // once
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_DEVICE_H_
