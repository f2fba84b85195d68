// Device memory for the tests of the CUDA quantizer. Where its kernels are emulated on the CPU,
// that is plain memory.
#ifndef SHIFTADD_WORKER_QUANTIZE_TESTING_DEVICE_ARRAY_H_
#define SHIFTADD_WORKER_QUANTIZE_TESTING_DEVICE_ARRAY_H_

#ifndef SHIFTADD_CUDA_EMULATED
#include <cuda_runtime_api.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace shiftadd::quantize::testing {

#ifdef SHIFTADD_CUDA_EMULATED

inline std::string WhyNoDevice() { return ""; }
inline void* DeviceAllocate(size_t size) { return ::operator new(size); }
inline void DeviceFree(void* p) { ::operator delete(p); }
inline void DeviceCopy(void* to, const void* from, size_t size) { std::memcpy(to, from, size); }

#else

inline void Check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}
// Empty if there is a GPU to test on.
inline std::string WhyNoDevice() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return count > 0 ? "" : "no device";
}
inline void* DeviceAllocate(size_t size) {
  void* p = nullptr;
  Check(cudaMalloc(&p, size));
  return p;
}
inline void DeviceFree(void* p) { (void)cudaFree(p); }
inline void DeviceCopy(void* to, const void* from, size_t size) {
  Check(cudaMemcpy(to, from, size, cudaMemcpyDefault));  // waits for the default stream's work
}

#endif

// Throws on CUDA errors: a test that meets one is over.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(const std::vector<T>& values)
      : size_(values.size()),
        data_(static_cast<T*>(DeviceAllocate(std::max<size_t>(size_, 1) * sizeof(T)))) {
    DeviceCopy(data_, values.data(), size_ * sizeof(T));
  }
  // Filled with bytes that no result should keep.
  explicit DeviceArray(size_t size) : DeviceArray(Poison(size)) {}
  ~DeviceArray() {
    if (data_ != nullptr) DeviceFree(data_);
  }
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(size_, other.size_);
    std::swap(data_, other.data_);
    return *this;
  }

  T* get() const { return data_; }
  std::vector<T> Host() const {
    std::vector<T> out(size_);
    DeviceCopy(out.data(), data_, size_ * sizeof(T));
    return out;
  }

 private:
  static std::vector<T> Poison(size_t size) {
    std::vector<T> out(size);
    std::memset(static_cast<void*>(out.data()), 0x7f, size * sizeof(T));
    return out;
  }

  size_t size_ = 0;
  T* data_ = nullptr;
};

}  // namespace shiftadd::quantize::testing

#endif  // SHIFTADD_WORKER_QUANTIZE_TESTING_DEVICE_ARRAY_H_
