#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "services/cli/child_process.h"
#include "services/cli/cluster_lock.h"
#include "services/cli/commands.h"
#include "services/cli/doctor_bundle.h"
#include "services/cli/doctor_report.h"
#include "services/cli/endpoints.h"
#include "services/cli/servers.h"
#include "services/cli/supervisor.h"

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kProbeTimeout = absl::Minutes(2);  // LibTorch's CUDA half is large

ProbedBinary Ask(const std::string& name) {
  ProbedBinary out{name, "", {}};
  const absl::StatusOr<std::string> path = FindBinary(name);
  const absl::StatusOr<ChildOutput> output = path.ok() ? RunChild({*path, "--probe"}, kProbeTimeout)
                                                       : absl::StatusOr<ChildOutput>(path.status());
  if (!output.ok()) {
    out.fault = std::string(output.status().message());
    return out;
  }
  out.probe = nlohmann::json::parse(output->out, nullptr, /*allow_exceptions=*/false);
  if (!out.probe.is_object()) out.fault = absl::StrCat("--probe gave no JSON: ", output->out);
  return out;
}

// The folder itself, or the nearest one above it that is there.
std::string ExistingPart(fs::path path) {
  std::error_code error;
  while (!fs::exists(path, error) && path.has_parent_path() && path != path.parent_path())
    path = path.parent_path();
  return path.string();
}

void CheckDisk(DoctorFindings* findings) {
  const std::string folder = ExistingPart(findings->data_dir);
  struct statvfs disk = {};
  if (statvfs(folder.c_str(), &disk) == 0)
    findings->disk_free_bytes = uint64_t{disk.f_bavail} * disk.f_frsize;
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    findings->data_dir_fault = absl::StrCat(folder, " cannot be written: ", std::strerror(errno));
}

DoctorFindings Look(const Context& context, const std::string& device) {
  DoctorFindings out;
  out.device = device;
  out.data_dir = DataDir(context);
  out.cluster_runs = ClusterLock::Holder(out.data_dir) > 0;
  for (const char* name : {"shiftadd-packager", "shiftadd-coordinator"}) {
    const absl::Status found = FindBinary(name).status();
    if (!found.ok()) out.missing.emplace_back(found.message());
  }
  for (const char* name : {"shiftadd-worker", kServerBinary}) out.binaries.push_back(Ask(name));
  CheckDisk(&out);
  out.ports = {{"coordinator", 7070, true, true},
               {"packager", 7071, true, true},
               {"server's gRPC", 7072, true, false},
               {"server's HTTP", 8000, true, false}};
  for (CheckedPort& port : out.ports) port.free = PickPort(port.port, 0).ok();
  return out;
}

}  // namespace

void AddDoctorCommand(CLI::App& app, Context& context) {
  auto device = std::make_shared<std::string>("auto");
  auto bundle = std::make_shared<std::string>();
  CLI::App* doctor = app.add_subcommand(
      "doctor", "Say what was found on this machine, what will be used, and what is missing");
  doctor
      ->add_option("--device", *device,
                   "What you mean to use: cpu, cuda (its lack is then a failure) or auto")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->capture_default_str();
  doctor->add_option("--bundle", *bundle,
                     "Also write a .tar.gz for whoever helps: these findings, the daemons, their "
                     "logs, workers and jobs; no weights, texts or secrets");
  AddCoordinatorFlag(doctor, context);
  AddJsonFlag(doctor, context);
  doctor->callback([&context, device, bundle] {
    context.action = [&context, device, bundle] {
      const DoctorFindings findings = Look(context, *device);
      const std::vector<Diagnosis> diagnoses = Diagnose(findings);
      if (context.json) {
        context.out << DoctorJson(findings, diagnoses).dump(2) << "\n";
      } else {
        context.out << FormatDoctor(findings, diagnoses);
      }
      if (!bundle->empty()) {
        const absl::Status written =
            WriteBundle(context, DoctorJson(findings, diagnoses).dump(2), *bundle);
        if (!written.ok()) return Report(context, written);
        if (!context.json) context.out << "wrote " << *bundle << "\n";
      }
      return IsBroken(diagnoses) ? kExitFailed : kExitOk;
    };
  });
}

}  // namespace shiftadd::cli
