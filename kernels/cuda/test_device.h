// Device memory for tests and benchmarks: failures throw.
#ifndef SHIFTADD_KERNELS_CUDA_TEST_DEVICE_H_
#define SHIFTADD_KERNELS_CUDA_TEST_DEVICE_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda_linear.h"

namespace shiftadd::kernels::cuda {

inline void Check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}
inline void Check(const CudaStatus& status) {
  if (!status.ok()) throw std::runtime_error(status.message);
}

template <typename T>
class DeviceVector {
 public:
  explicit DeviceVector(size_t size) : size_(size) { Check(cudaMalloc(&data_, size * sizeof(T))); }
  explicit DeviceVector(const std::vector<T>& from) : DeviceVector(from.size()) {
    Check(cudaMemcpy(data_, from.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceVector(DeviceVector&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  DeviceVector& operator=(DeviceVector&&) = delete;
  ~DeviceVector() { (void)cudaFree(data_); }

  T* data() const { return static_cast<T*>(data_); }
  size_t size() const { return size_; }
  void FillBytes(int byte) { Check(cudaMemset(data_, byte, size_ * sizeof(T))); }
  std::vector<T> ToHost() const {
    std::vector<T> out(size_);
    Check(cudaMemcpy(out.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

class Stream {
 public:
  Stream() { Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { (void)cudaStreamDestroy(stream_); }

  operator cudaStream_t() const { return stream_; }  // NOLINT(google-explicit-constructor)
  void Wait() const { Check(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

// What `record` puts on a stream, replayable.
class Graph {
 public:
  template <typename F>
  explicit Graph(F record) {
    Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    record(static_cast<cudaStream_t>(stream_));
    cudaGraph_t graph = nullptr;
    Check(cudaStreamEndCapture(stream_, &graph));
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
    (void)cudaGraphDestroy(graph);
    Check(error);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { (void)cudaGraphExecDestroy(executable_); }

  void Launch() { Check(cudaGraphLaunch(executable_, stream_)); }
  void Wait() const { stream_.Wait(); }
  cudaStream_t stream() const { return stream_; }

 private:
  Stream stream_;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_TEST_DEVICE_H_
