#include "worker/machine/probe.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/build_info.h"
#include "kernels/cpu_linear.h"
#include "services/base/version.h"

namespace shiftadd {
namespace {

using Json = nlohmann::ordered_json;

Json CudaJson(const CudaFindings& found) {
  Json gpus = Json::array();
  for (const Gpu& gpu : found.gpus) {
    gpus.push_back({{"name", gpu.name},
                    {"uuid", gpu.uuid},
                    {"memory_bytes", gpu.memory_bytes},
                    {"compute_capability", absl::StrCat(gpu.major, ".", gpu.minor)}});
  }
  const std::string version =
      found.cuda > 0 ? absl::StrCat(found.cuda / 1000, ".", found.cuda % 1000 / 10) : "";
  return {{"hardware", found.hardware},
          {"driver", found.driver},
          {"driver_version", found.driver_version},
          {"version", version},
          {"error", found.error_text},
          {"gpus", gpus}};
}

}  // namespace

Probe StartProbe(const std::string& binary) {
  Probe probe;
  probe.binary = binary;
  probe.cuda = FindCuda();
  probe.cuda_code = kernels::KernelsBuildInfo();
  probe.isa = kernels::IsaName(kernels::DetectIsa());
  probe.machine = FindMachine();
  probe.cpu_meter_fault = CpuMeter().fault();
  if (!probe.cuda.gpus.empty()) probe.gpu_meter = GpuJoules().has_value();
  return probe;
}

std::string ToJson(const Probe& probe) {
  const Machine& machine = probe.machine;
  Json libraries = Json::array();
  for (const ProbedLibrary& library : probe.libraries) {
    libraries.push_back(
        {{"name", library.name}, {"version", library.version}, {"fault", library.fault}});
  }
  const Json json = {{"binary", probe.binary},
                     {"version", VersionLine()},
                     {"cuda_code", probe.cuda_code},
                     {"cpu",
                      {{"name", machine.cpu},
                       {"isa", probe.isa},
                       {"cores", machine.cores},
                       {"usable_cores", machine.usable_cores},
                       {"cgroup_cores", machine.cgroup_cores}}},
                     {"memory",
                      {{"bytes", machine.memory_bytes},
                       {"available_bytes", machine.available_bytes},
                       {"cgroup_bytes", machine.cgroup_bytes}}},
                     {"energy", {{"cpu_fault", probe.cpu_meter_fault}, {"gpu", probe.gpu_meter}}},
                     {"cuda", CudaJson(probe.cuda)},
                     {"libraries", libraries},
                     {"device", probe.cuda_fault.empty() ? "cuda" : "cpu"},
                     {"cuda_fault", probe.cuda_fault}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shiftadd
