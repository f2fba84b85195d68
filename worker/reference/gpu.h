// The GPU that LibTorch would use, asked of the driver; no LibTorch or CUDA header is needed.
#ifndef SHIFTADD_WORKER_REFERENCE_GPU_H_
#define SHIFTADD_WORKER_REFERENCE_GPU_H_

#include <cstdint>
#include <optional>
#include <string>

namespace shiftadd {

struct Gpu {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  uint64_t memory_bytes = 0;
};
// The first CUDA device; nothing without a driver or a device.
std::optional<Gpu> FindGpu();

// Joules that the first CUDA device has used since its driver was loaded, by its own meter (NVML),
// whoever used them; nothing without NVML, or if the device has no meter (before Volta).
std::optional<double> GpuJoules();

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_REFERENCE_GPU_H_
