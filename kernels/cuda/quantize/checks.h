// What the host functions check before they launch anything, and how CUDA's errors become a status.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_CHECKS_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_CHECKS_H_

#include <string>

#include "kernels/cuda/quantize/launches.h"

namespace shiftadd::kernels::quantize {

inline constexpr int64_t kMaxRows = int64_t{1} << 22;
inline constexpr int64_t kMaxInputs = int64_t{1} << 18;
inline constexpr int kSharedBytes = 140 << 10;  // that every kernel can make do with

inline CudaStatus Invalid(std::string message) {
  return {CudaCode::kInvalidArgument, std::move(message)};
}

inline CudaStatus ToStatus(cudaError_t error, const std::string& doing) {
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();  // or the next launch that asks for it would fail for this one
  CudaCode code = CudaCode::kInternal;
  if (error == cudaErrorMemoryAllocation) code = CudaCode::kOutOfMemory;
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver ||
      error == cudaErrorInitializationError || error == cudaErrorNoKernelImageForDevice ||
      error == cudaErrorNotSupported) {
    code = CudaCode::kUnavailable;
  }
  return {code, doing + ": " + cudaGetErrorString(error)};
}

inline CudaStatus CheckDevice() {
  DeviceLimits device;
  if (const cudaError_t error = CurrentDevice(&device); error != cudaSuccess) {
    CudaStatus status = ToStatus(error, "no CUDA device to quantize on");
    status.code = CudaCode::kUnavailable;
    return status;
  }
  if (device.major < 8) {
    return {CudaCode::kUnavailable, "CUDA device: found compute capability " +
                                        std::to_string(device.major) + ".x, expected 8.0 or more"};
  }
  if (device.shared_bytes < kSharedBytes) {
    return {CudaCode::kUnavailable, "CUDA device: found " + std::to_string(device.shared_bytes) +
                                        " bytes of shared memory a block, expected " +
                                        std::to_string(kSharedBytes)};
  }
  return {};
}

inline CudaStatus CheckPointer(const void* p, size_t alignment, const std::string& name) {
  if (p == nullptr) return Invalid(name + ": found null, expected device memory");
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0) {
    return Invalid(name + ": found an address that is no multiple of " + std::to_string(alignment));
  }
  if (!IsDevicePointer(p)) return Invalid(name + ": found memory that is not the device's");
  return {};
}

inline CudaStatus CheckRange(int64_t found, int64_t low, int64_t high, const std::string& name) {
  if (found >= low && found <= high) return {};
  return Invalid(name + ": found " + std::to_string(found) + ", expected " + std::to_string(low) +
                 " to " + std::to_string(high));
}

inline CudaStatus CheckRecipe(const CudaQuantizeRecipe& recipe) {
  if (recipe.group < 32 || recipe.group > kMaxInputs || recipe.group % 32 != 0) {
    return Invalid("recipe.group: found " + std::to_string(recipe.group) +
                   ", expected a multiple of 32 from 32 to " + std::to_string(kMaxInputs));
  }
  CudaStatus status = CheckRange(recipe.rounds, 0, 10000, "recipe.rounds");
  if (status.ok()) status = CheckRange(recipe.inner_rounds, 1, 10000, "recipe.inner_rounds");
  if (status.ok()) status = CheckRange(recipe.sweeps, 0, 10000, "recipe.sweeps");
  return status;
}

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_CHECKS_H_
