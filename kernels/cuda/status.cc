#include "kernels/cuda/status.h"

#include <cstdint>

#include "kernels/build_info.h"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels {
namespace cuda {

CudaStatus FromCuda(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();
  const std::string message = what + ": " + cudaGetErrorString(error);
  switch (error) {
    case cudaErrorMemoryAllocation:
      return {CudaCode::kOutOfMemory, message};
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInitializationError:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorDevicesUnavailable:
    case cudaErrorStubLibrary:
      return {CudaCode::kUnavailable, message};
    default:
      return {CudaCode::kInternal, message};
  }
}

CudaStatus CheckDevicePointer(const void* p, size_t alignment, const char* name) {
  if (p == nullptr) return InvalidArgument(std::string(name) + " is null");
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0) {
    return InvalidArgument(std::string(name) + " is not aligned to " + std::to_string(alignment) +
                           " bytes");
  }
  cudaPointerAttributes attributes = {};
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      FromCuda(cudaPointerGetAttributes(&attributes, p), std::string("looking up ") + name));
  int device = 0;
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(cudaGetDevice(&device), "finding the current device"));
  if (attributes.devicePointer != p) {
    return InvalidArgument(std::string(name) + " is not device memory");
  }
  if (attributes.type == cudaMemoryTypeDevice && attributes.device != device) {
    return InvalidArgument(std::string(name) + " is memory of device " +
                           std::to_string(attributes.device) + ", the current device is " +
                           std::to_string(device));
  }
  return {};
}

CudaStatus CheckRange(const char* name, int64_t found, int64_t low, int64_t high) {
  if (found >= low && found <= high) return {};
  return InvalidArgument(std::string(name) + " is " + std::to_string(found) + ", expected " +
                         std::to_string(low) + ".." + std::to_string(high));
}

}  // namespace cuda

const char* CudaBuildInfo() { return KernelsBuildInfo(); }

CudaStatus CudaAvailable() {
  int count = 0, driver = 0, device = 0, major = 0, minor = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    (void)cudaGetLastError();
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
      return {CudaCode::kUnavailable, "no NVIDIA driver"};
    }
    return {CudaCode::kUnavailable, "the NVIDIA driver is for CUDA " +
                                        std::to_string(driver / 1000) + "." +
                                        std::to_string(driver % 1000 / 10) + ", expected " +
                                        std::to_string(CUDART_VERSION / 1000) + ".0 or later"};
  }
  SHIFTADD_CUDA_RETURN_IF_ERROR(cuda::FromCuda(error, "looking for devices"));
  if (count == 0) return {CudaCode::kUnavailable, "no NVIDIA device"};
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      cuda::FromCuda(cudaGetDevice(&device), "finding the current device"));
  SHIFTADD_CUDA_RETURN_IF_ERROR(cuda::FromCuda(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "the device"));
  SHIFTADD_CUDA_RETURN_IF_ERROR(cuda::FromCuda(
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "the device"));
  return cuda::FromCuda(cuda::HasCode(), "compute capability " + std::to_string(major) + "." +
                                             std::to_string(minor) + ", " + CudaBuildInfo());
}

}  // namespace shiftadd::kernels
