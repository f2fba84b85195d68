// What `shiftadd-worker --probe` and `shiftadd-server --probe` print: one JSON object that says
// what this binary is, what it found and what it would use. `shiftadd doctor` reads it, so that no
// control-plane binary needs CUDA, LibTorch or a driver's library:
//
//   {"binary", "version", "cuda_code",
//    "cpu": {"name", "isa", "cores", "usable_cores", "cgroup_cores"},
//    "memory": {"bytes", "available_bytes", "cgroup_bytes"},
//    "energy": {"cpu_fault", "gpu"},
//    "cuda": {"hardware", "driver", "driver_version", "version", "error", "gpus": [{"name", "uuid",
//             "memory_bytes", "compute_capability"}]},
//    "libraries": [{"name", "version", "fault"}],
//    "device": "cpu" | "cuda", "cuda_fault"}
//
// `device` is what --device auto takes, `cuda_fault` why it is not the GPU. Quotas and limits that
// there are not, are 0.
#ifndef SHIFTADD_WORKER_MACHINE_PROBE_H_
#define SHIFTADD_WORKER_MACHINE_PROBE_H_

#include <string>
#include <vector>

#include "worker/machine/gpu.h"
#include "worker/machine/machine.h"

namespace shiftadd {

struct ProbedLibrary {
  std::string name, version;
  std::string fault;  // why it cannot be used; empty if it can
};

struct Probe {
  std::string binary;
  std::string cuda_code;  // kernels::KernelsBuildInfo()
  std::string isa;
  Machine machine;
  CudaFindings cuda;
  std::string cpu_meter_fault;
  bool gpu_meter = false;
  std::vector<ProbedLibrary> libraries;
  std::string cuda_fault;  // empty: --device auto takes the GPU
};

// Fills what does not depend on the binary. Call it while there is one thread.
Probe StartProbe(const std::string& binary);
std::string ToJson(const Probe& probe);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MACHINE_PROBE_H_
