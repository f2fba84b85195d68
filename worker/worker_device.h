// Which device a worker computes on, and what it says about itself.
#ifndef SHIFTADD_WORKER_WORKER_DEVICE_H_
#define SHIFTADD_WORKER_WORKER_DEVICE_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "worker/machine/device_lock.h"
#include "worker/reference/reference_model.h"

namespace shiftadd {

struct WorkerDevice {
  Device device = Device::kCpu;
  std::optional<DeviceLock> lock;  // of the GPU; keep it as long as the GPU is used
};

// `flag`: cpu, cuda or auto. Of several GPUs takes the first that no other worker holds and hides
// the others from this process; with `share` the first, whoever holds it. Loads LibTorch's CUDA
// half (InitTorch). Logs why auto is cpu. FAILED_PRECONDITION: what stands in the way of the GPU,
// or who holds it, and what to do. Call it while there is one thread.
absl::StatusOr<WorkerDevice> ChooseDevice(const std::string& flag, bool share);

// Names all that the bytes of a result may depend on: instruction set and CPU model; on a GPU the
// model of both, since some methods and tasks stay on the CPU, and whether layers are quantized on
// the GPU.
std::string DeviceClass(Device device);

// The JSON of --probe (worker/machine/probe.h).
std::string WorkerProbe();

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_WORKER_DEVICE_H_
