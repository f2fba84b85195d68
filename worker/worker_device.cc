#include "worker/worker_device.h"

#include <cpuid.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu_linear.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "worker/machine/gpu.h"
#include "worker/machine/probe.h"
#include "worker/quantize/device_quantizer.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd {
namespace {

// LibTorch's products may be cut differently on another CPU model, which changes their bytes.
std::string CpuClass() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  const unsigned family = ((eax >> 8) & 0xf) + ((eax >> 20) & 0xff);
  const unsigned model = ((eax >> 4) & 0xf) | ((eax >> 12) & 0xf0);
  return absl::StrCat("cpu-", kernels::IsaName(kernels::DetectIsa()), "-", absl::Hex(family), "-",
                      absl::Hex(model));
}

// Of LibTorch, where the driver is in order. After InitTorch.
std::string TorchFault() {
  if (!CudaLibraryFault().empty()) {
    return absl::StrCat("LibTorch's CUDA half cannot be loaded (", CudaLibraryFault(),
                        "): install CUDA's libraries (`pip install torch==", TorchVersion(),
                        "` brings them all; NVIDIA's packages are cuda-libraries-",
                        kTorchCuda / 1000, "-0 and cudnn9-cuda-", kTorchCuda / 1000,
                        ") and name their folder in LD_LIBRARY_PATH");
  }
  return HasCuda() ? "" : "LibTorch sees no CUDA device";
}

}  // namespace

absl::StatusOr<WorkerDevice> ChooseDevice(const std::string& flag, bool share) {
  WorkerDevice out;
  if (flag == "cpu") {
    InitTorch();
    return out;
  }
  const CudaFindings found = FindCuda();
  std::string fault = CudaFault(found, kTorchCuda);
  if (fault.empty() && !share) {
    absl::StatusOr<TakenGpu> taken = TakeFreeGpu(found.gpus);
    if (!taken.ok()) return Annotate(taken.status(), absl::StrCat("--device ", flag));
    out.lock = std::move(taken->lock);
    if (found.gpus.size() > 1)
      setenv("CUDA_VISIBLE_DEVICES", found.gpus[taken->index].uuid.c_str(), /*replace=*/1);
  }
  InitTorch();
  if (fault.empty()) fault = TorchFault();
  if (fault.empty()) {
    out.device = Device::kCuda;
    if (!HasDeviceQuantizer()) {
      spdlog::warn(
          "this build has no CUDA quantizer (-DSHIFTADD_CUDA=ON): models run on the GPU, layers "
          "are quantized on the CPU, which takes tens of times as long");
    }
    return out;
  }
  if (flag == "cuda") return absl::FailedPreconditionError(absl::StrCat("--device cuda: ", fault));
  spdlog::warn("--device auto: cpu ({})", fault);
  return WorkerDevice();
}

std::string DeviceClass(Device device) {
  if (device != Device::kCuda) return CpuClass();
  const std::optional<Gpu> gpu = FindGpu();
  std::string name = gpu.has_value() ? gpu->name : "unknown";
  std::replace(name.begin(), name.end(), ' ', '-');
  return absl::StrCat("gpu-", name, HasDeviceQuantizer() ? "-quantizer-" : "-", CpuClass());
}

std::string WorkerProbe() {
  Probe probe = StartProbe("shiftadd-worker");
  InitTorch();
  probe.cuda_fault = CudaFault(probe.cuda, kTorchCuda);
  const bool cuda = probe.cuda_fault.empty();
  if (cuda) probe.cuda_fault = TorchFault();
  probe.libraries.push_back({"LibTorch", TorchVersion(), ""});
  if (cuda) probe.libraries.push_back({"LibTorch's CUDA half", TorchVersion(), probe.cuda_fault});
  return ToJson(probe);
}

}  // namespace shiftadd
