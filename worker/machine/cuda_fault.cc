#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "worker/machine/gpu.h"

namespace shiftadd {
namespace {

constexpr int kNoDevice = 100;       // CUDA_ERROR_NO_DEVICE
constexpr int kOtherVersion = 803;   // CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
constexpr int kFirstDriver13 = 580;  // the first driver of CUDA 13
constexpr int kFirstDriver12 = 525;  // … and of 12

std::string Version(int cuda) { return absl::StrCat(cuda / 1000, ".", cuda % 1000 / 10); }

std::string WantedDriver(int needed) {
  if (needed <= 0) return "NVIDIA's driver";
  return absl::StrCat("NVIDIA's driver, version ",
                      needed >= 13000 ? kFirstDriver13 : kFirstDriver12, " or later");
}

}  // namespace

std::string GpuFault(const Gpu& gpu) {
  constexpr int kLeastMajor = 8;                              // the first with bf16
  if (gpu.major == 0 || gpu.major >= kLeastMajor) return "";  // 0: not known
  return absl::StrCat("its compute capability is ", gpu.major, ".", gpu.minor, ", expected ",
                      kLeastMajor, ".0 or later");
}

std::string CudaFault(const CudaFindings& found, int needed) {
  if (!found.driver && !found.hardware) return "no NVIDIA GPU was found";
  if (!found.driver) {
    return absl::StrCat(
        "there is an NVIDIA GPU but no driver (libcuda.so.1): install ", WantedDriver(needed),
        " (Debian: nvidia-driver; Ubuntu: nvidia-driver-580-server; in a container: start it with "
        "--gpus all)");
  }
  if (found.cuda > 0 && found.cuda / 1000 < needed / 1000) {
    return absl::StrCat("the NVIDIA driver",
                        found.driver_version.empty() ? "" : " " + found.driver_version,
                        " is too old: it is for CUDA ", Version(found.cuda), ", expected ",
                        needed / 1000, ".0 or later: install ", WantedDriver(needed));
  }
  if (found.error == kOtherVersion) {
    return absl::StrCat("the NVIDIA driver's parts are of different versions (", found.error_text,
                        "): restart the machine, or reload the nvidia module");
  }
  if (found.error != 0 && found.error != kNoDevice) {
    return absl::StrCat("the NVIDIA driver failed: ", found.error_text);
  }
  // One will do: who takes one leaves the others out.
  std::string fault;
  for (const Gpu& gpu : found.gpus) {
    const std::string of_gpu = GpuFault(gpu);
    if (of_gpu.empty()) return "";
    if (fault.empty()) fault = absl::StrCat("the NVIDIA GPU ", gpu.name, " is too old: ", of_gpu);
  }
  if (!fault.empty()) return fault;
  const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return absl::StrCat("the NVIDIA driver shows no GPU",
                      visible == nullptr
                          ? std::string()
                          : absl::StrCat(" (CUDA_VISIBLE_DEVICES is '", visible, "')"));
}

}  // namespace shiftadd
