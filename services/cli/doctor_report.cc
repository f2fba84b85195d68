#include "services/cli/doctor_report.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

using nlohmann::json;
using Severity = Diagnosis::Severity;

constexpr uint64_t kLittleDisk = uint64_t{10} << 30;
constexpr uint64_t kNoDisk = uint64_t{1} << 30;

// A field of a probe, or `otherwise`: a binary of another version may say less.
template <typename T>
T Field(const json& object, const char* key, T otherwise) {
  if (!object.is_object()) return otherwise;
  const auto it = object.find(key);
  if (it == object.end()) return otherwise;
  try {
    return it->get<T>();
  } catch (const json::exception&) {
    return otherwise;
  }
}

std::string Text(const json& object, const char* key) {
  return Field<std::string>(object, key, "");
}

json Part(const json& object, const char* key) {
  json part = Field<json>(object, key, json::object());
  return part.is_object() ? part : json::object();
}

json List(const json& object, const char* key) {
  json list = Field<json>(object, key, json::array());
  return list.is_array() ? list : json::array();
}

// The first binary that could be asked.
json AnyProbe(const DoctorFindings& findings) {
  for (const ProbedBinary& binary : findings.binaries) {
    if (binary.fault.empty()) return binary.probe;
  }
  return json::object();
}

bool HasCudaCode(const json& probe) { return !absl::StrContains(Text(probe, "cuda_code"), "none"); }

// What a device is good for is worth more than that it is there.
std::string Using(const ProbedBinary& binary, const std::string& wanted) {
  if (!binary.fault.empty()) return "cannot be run";
  const std::string fault = Text(binary.probe, "cuda_fault");
  if (wanted == "cpu") return "cpu, as asked";
  if (!fault.empty()) {
    return wanted == "cuda" ? absl::StrCat("nothing: ", fault) : absl::StrCat("cpu: ", fault);
  }
  const json gpus = List(Part(binary.probe, "cuda"), "gpus");
  return absl::StrCat("cuda: ", gpus.empty() ? "" : Text(gpus[0], "name"));
}

std::string CpuText(const json& probe) {
  const json cpu = Part(probe, "cpu");
  const int cores = Field(cpu, "cores", 0), usable = Field(cpu, "usable_cores", 0);
  const auto quota = Field(cpu, "cgroup_cores", 0.0);
  std::string text =
      absl::StrCat(Text(cpu, "name"), ", ", Text(cpu, "isa"), " kernels, ", usable, " cores");
  if (usable != cores) absl::StrAppend(&text, " of ", cores, " by affinity");
  if (quota > 0) absl::StrAppend(&text, ", control group's quota ", FormatFixed(quota, 1));
  return text;
}

std::string MemoryText(const json& probe) {
  const json memory = Part(probe, "memory");
  std::string text =
      absl::StrCat(FormatBytes(Field(memory, "bytes", uint64_t{0})), ", ",
                   FormatBytes(Field(memory, "available_bytes", uint64_t{0})), " available");
  const auto limit = Field(memory, "cgroup_bytes", uint64_t{0});
  if (limit > 0) absl::StrAppend(&text, ", control group's limit ", FormatBytes(limit));
  return text;
}

std::string DriverText(const json& probe) {
  const json cuda = Part(probe, "cuda");
  if (!Field(cuda, "driver", false))
    return Field(cuda, "hardware", false) ? "none, although there is an NVIDIA GPU" : "none";
  const std::string version = Text(cuda, "driver_version"), error = Text(cuda, "error");
  return absl::StrCat("NVIDIA ", version.empty() ? "(version not known)" : version, ", for CUDA ",
                      Text(cuda, "version"), error.empty() ? "" : ", fails: ", error);
}

std::string GpuText(const json& gpu) {
  return absl::StrCat(Text(gpu, "name"), ", compute capability ", Text(gpu, "compute_capability"),
                      ", ", FormatBytes(Field(gpu, "memory_bytes", uint64_t{0})), ", ",
                      Text(gpu, "uuid"));
}

std::string LibraryText(const json& library) {
  const std::string fault = Text(library, "fault");
  return fault.empty() ? absl::StrCat(Text(library, "version"), ", works") : fault;
}

std::string MeterText(const json& probe) {
  const json energy = Part(probe, "energy");
  const std::string cpu = Text(energy, "cpu_fault");
  return absl::StrCat("CPU: ", cpu.empty() ? "RAPL" : cpu,
                      "; GPU: ", Field(energy, "gpu", false) ? "NVML" : "none");
}

void DiagnoseBinary(const DoctorFindings& findings, const ProbedBinary& binary,
                    std::vector<Diagnosis>* out) {
  if (!binary.fault.empty()) {
    std::string text = absl::StrCat(binary.name, " does not run: ", binary.fault);
    if (absl::StrContains(binary.fault, "libtorch") || absl::StrContains(binary.fault, "libc10"))
      absl::StrAppend(&text, ": run deploy/setup.sh, or put LibTorch's lib/ on LD_LIBRARY_PATH");
    out->push_back({Severity::kBroken, std::move(text)});
    return;
  }
  const json cuda = Part(binary.probe, "cuda");
  const std::string fault = Text(binary.probe, "cuda_fault");
  const bool gpu_here = Field(cuda, "hardware", false) || Field(cuda, "driver", false);
  if (findings.device == "cuda" && !fault.empty()) {
    out->push_back({Severity::kBroken, absl::StrCat(binary.name, " --device cuda: ", fault)});
  } else if (findings.device == "auto" && !fault.empty() && gpu_here) {
    out->push_back({Severity::kWarning,
                    absl::StrCat(binary.name, " does not use the GPU of this machine: ", fault)});
  } else if (findings.device != "cpu" && fault.empty() && !HasCudaCode(binary.probe)) {
    out->push_back(
        {Severity::kWarning, absl::StrCat(binary.name,
                                          " is built without CUDA: layers are quantized on the "
                                          "CPU; build with -DSHIFTADD_CUDA=ON")});
  }
  if (findings.device == "cpu") return;
  for (const json& library : List(binary.probe, "libraries")) {
    const std::string name = Text(library, "name"), why = Text(library, "fault");
    if (why.empty() || name != "cuBLAS") continue;
    out->push_back({Severity::kWarning,
                    absl::StrCat(binary.name, ": ", why,
                                 ": long prompts take several times as long; install "
                                 "libcublas-13-0 (NVIDIA's packages) or `pip install "
                                 "nvidia-cublas`, or name the library in SHIFTADD_CUBLAS")});
  }
}

void DiagnoseDisk(const DoctorFindings& findings, std::vector<Diagnosis>* out) {
  if (!findings.data_dir_fault.empty()) {
    out->push_back(
        {Severity::kBroken, absl::StrCat(findings.data_dir, ": ", findings.data_dir_fault,
                                         ": name another folder with --data-dir")});
  } else if (findings.disk_free_bytes < kLittleDisk) {
    const bool none = findings.disk_free_bytes < kNoDisk;
    out->push_back(
        {none ? Severity::kBroken : Severity::kWarning,
         absl::StrCat(findings.data_dir, ": only ", FormatBytes(findings.disk_free_bytes),
                      " free; `submit --dry-run` says what a job takes")});
  }
}

const char* SeverityName(Severity severity) {
  switch (severity) {
    case Severity::kBroken:
      return "broken";
    case Severity::kWarning:
      return "warning";
    case Severity::kNote:
      break;
  }
  return "note";
}

std::string PortsText(const DoctorFindings& findings) {
  std::vector<std::string> words;
  for (const CheckedPort& port : findings.ports) {
    words.push_back(absl::StrCat(port.port, port.free ? " free" : " taken"));
  }
  return absl::StrJoin(words, ", ");
}

}  // namespace

std::vector<Diagnosis> Diagnose(const DoctorFindings& findings) {
  std::vector<Diagnosis> out;
  for (const std::string& fault : findings.missing) out.push_back({Severity::kBroken, fault});
  for (const ProbedBinary& binary : findings.binaries) DiagnoseBinary(findings, binary, &out);
  DiagnoseDisk(findings, &out);
  for (const CheckedPort& port : findings.ports) {
    if (port.free || findings.cluster_runs) continue;
    out.push_back({port.moves ? Severity::kNote : Severity::kWarning,
                   absl::StrCat("port ", port.port, " (", port.what, ") is taken: ",
                                port.moves ? "`shiftadd up` takes another one"
                                           : "name another one with --port or --grpc-port")});
  }
  std::stable_sort(out.begin(), out.end(), [](const Diagnosis& a, const Diagnosis& b) {
    return static_cast<int>(a.severity) > static_cast<int>(b.severity);
  });
  return out;
}

bool IsBroken(const std::vector<Diagnosis>& diagnoses) {
  return std::any_of(diagnoses.begin(), diagnoses.end(),
                     [](const Diagnosis& d) { return d.severity == Severity::kBroken; });
}

std::string FormatDoctor(const DoctorFindings& findings, const std::vector<Diagnosis>& diagnoses) {
  const json probe = AnyProbe(findings);
  Table table({"", ""});
  if (!probe.empty()) {
    table.Add({"processor", CpuText(probe)});
    table.Add({"memory", MemoryText(probe)});
    table.Add({"GPU driver", DriverText(probe)});
    for (const json& gpu : List(Part(probe, "cuda"), "gpus")) table.Add({"GPU", GpuText(gpu)});
    table.Add({"energy meters", MeterText(probe)});
  }
  for (const ProbedBinary& binary : findings.binaries) {
    if (!binary.fault.empty()) continue;
    table.Add({binary.name, Text(binary.probe, "version")});
    table.Add({"", Text(binary.probe, "cuda_code")});
    for (const json& library : List(binary.probe, "libraries"))
      table.Add({"", absl::StrCat(Text(library, "name"), ": ", LibraryText(library))});
  }
  table.Add({"data", absl::StrCat(findings.data_dir, ", ", FormatBytes(findings.disk_free_bytes),
                                  " free", findings.cluster_runs ? "; a cluster runs" : "")});
  table.Add({"ports", PortsText(findings)});
  for (const ProbedBinary& binary : findings.binaries) {
    table.Add({absl::StrCat(binary.name, " --device ", findings.device, " uses"),
               Using(binary, findings.device)});
  }
  std::string text = table.ToString();
  text = text.substr(text.find('\n') + 1);  // no headers
  text += "\n";
  for (const Diagnosis& d : diagnoses)
    absl::StrAppend(&text, SeverityName(d.severity), ": ", d.text, "\n");
  if (diagnoses.empty()) text += "nothing is missing\n";
  return text;
}

nlohmann::ordered_json DoctorJson(const DoctorFindings& findings,
                                  const std::vector<Diagnosis>& diagnoses) {
  using Json = nlohmann::ordered_json;
  Json out = {{"broken", IsBroken(diagnoses)},
              {"device", findings.device},
              {"diagnoses", Json::array()},
              {"binaries", Json::array()},
              {"data_dir", findings.data_dir},
              {"disk_free_bytes", findings.disk_free_bytes},
              {"cluster_runs", findings.cluster_runs},
              {"ports", Json::array()}};
  for (const Diagnosis& d : diagnoses)
    out["diagnoses"].push_back({{"severity", SeverityName(d.severity)}, {"text", d.text}});
  for (const ProbedBinary& binary : findings.binaries) {
    out["binaries"].push_back({{"name", binary.name},
                               {"fault", binary.fault},
                               {"uses", Using(binary, findings.device)},
                               {"probe", Json(binary.probe)}});
  }
  for (const CheckedPort& port : findings.ports)
    out["ports"].push_back({{"what", port.what}, {"port", port.port}, {"free", port.free}});
  return out;
}

}  // namespace shiftadd::cli
