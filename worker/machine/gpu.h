// The NVIDIA GPUs of this machine, asked of the driver's own libraries (libcuda, NVML), which are
// opened at run time: every build and every machine can ask. No LibTorch, no CUDA header.
#ifndef SHIFTADD_WORKER_MACHINE_GPU_H_
#define SHIFTADD_WORKER_MACHINE_GPU_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace shiftadd {

struct Gpu {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  uint64_t memory_bytes = 0;
  std::string uuid;          // "GPU-…", as nvidia-smi -L shows it
  int major = 0, minor = 0;  // compute capability
};
// Why CUDA code of this project cannot run on it: compute capability below 8.0; else empty.
std::string GpuFault(const Gpu& gpu);
// The first CUDA device; nothing without a driver or a device.
std::optional<Gpu> FindGpu();

// Joules that the first CUDA device has used since its driver was loaded, by its own meter (NVML),
// whoever used them; nothing without NVML, or if the device has no meter (before Volta).
std::optional<double> GpuJoules();

// Bytes of the first CUDA device that are in use, by all processes; nothing without NVML.
std::optional<uint64_t> GpuBytesInUse();

// The share of the last moment (NVML: a sixth of a second to one second) in which the first CUDA
// device computed, 0 to 1, and the watts that it draws; nothing without NVML.
std::optional<double> GpuUtilization();
std::optional<double> GpuWatts();

// What there is to run CUDA on.
struct CudaFindings {
  bool hardware = false;       // a PCI device of NVIDIA's that computes or draws
  bool driver = false;         // libcuda.so.1 can be opened
  std::string driver_version;  // "580.65.06"; empty if not known
  int cuda = 0;                // the latest CUDA of the driver: 13000 is 13.0; 0: not known
  int error = 0;               // of cuInit; 0: none
  std::string error_text;      // "CUDA_ERROR_NO_DEVICE"; or why the driver gave no answer
  std::vector<Gpu> gpus;       // those that CUDA_VISIBLE_DEVICES leaves, as CUDA counts them
};

// Asks in a child process, so that this one can still choose (CUDA_VISIBLE_DEVICES) and lives on
// if the driver does not answer (30 s). Call it while there is one thread.
CudaFindings FindCuda();
// In this process, with whatever threads: cuInit is called, and CUDA_VISIBLE_DEVICES is settled.
CudaFindings FindCudaHere();

// Why CUDA of at least version `needed` (13000: 13.0) cannot be used, and what to do about it: one
// sentence; empty if nothing stands in the way.
std::string CudaFault(const CudaFindings& found, int needed);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MACHINE_GPU_H_
