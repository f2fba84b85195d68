#include "services/cli/doctor_bundle.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "services/base/status_macros.h"
#include "services/base/version.h"
#include "services/cli/child_process.h"
#include "services/cli/clients.h"
#include "services/cli/endpoints.h"
#include "services/cli/files.h"
#include "services/cli/http_probe.h"
#include "services/cli/proto_json.h"

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::streamoff kLogBytes = 2 << 20;  // of each log, its end
constexpr int kJobs = 100;
constexpr absl::Duration kTarTimeout = absl::Minutes(1);
constexpr absl::Duration kRpcTimeout = absl::Seconds(5);

class Bundle {
 public:
  Bundle(const Context& context, std::string folder)
      : context_(context), folder_(std::move(folder)) {}

  void Add(const std::string& name, const std::string& text) {
    std::ofstream out(absl::StrCat(folder_, "/", name));
    out << text << "\n" << std::flush;
    NoteFault(out, name);
  }
  // What could not be written, if anything: a bundle without its ends looks like a whole one.
  const absl::Status& fault() const { return fault_; }
  void Missing(const std::string& what, const absl::Status& status) {
    absl::StrAppend(&missing_, what, ": ", status.message(), "\n");
  }

  void AddVariables() {
    std::string names;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const absl::string_view text = *entry;
      if (absl::StartsWith(text, "SHIFTADD_")) {
        absl::StrAppend(&names, text.substr(0, text.find('=')), "\n");
      }
    }
    Add("variables.txt", names);
  }

  void AddCluster() {
    const auto cluster = ReadCluster(DataDir(context_));
    if (!cluster.ok()) return Missing("cluster.json", cluster.status());
    nlohmann::ordered_json daemons = nlohmann::ordered_json::array();
    for (const DaemonInfo& d : cluster->daemons) {
      const absl::Status ready = ProbeReady(d.http);
      daemons.push_back({{"name", d.name},
                         {"pid", d.pid},
                         {"grpc", d.grpc},
                         {"http", d.http},
                         {"restarts", d.restarts},
                         {"given_up", d.given_up},
                         {"ready", ready.ok() ? "yes" : std::string(ready.message())}});
    }
    Add("cluster.json",
        nlohmann::ordered_json{{"blobs", cluster->blobs}, {"daemons", daemons}}.dump(2));
  }

  void AddJobs() {
    const absl::StatusOr<JobClient> client = ConnectJobs(context_);
    if (!client.ok()) return Missing("workers.json, jobs.json", client.status());
    const auto workers =
        client->Call(&JobClient::Stub::ListWorkers, v1::ListWorkersRequest(), kRpcTimeout);
    if (!workers.ok()) return Missing("workers.json, jobs.json", workers.status());
    Add("workers.json", ToJson(*workers).dump(2));
    v1::ListJobsRequest request;
    request.set_page_size(kJobs);
    const auto jobs = client->Call(&JobClient::Stub::ListJobs, request, kRpcTimeout);
    if (!jobs.ok()) return Missing("jobs.json", jobs.status());
    Add("jobs.json", ToJson(*jobs).dump(2));
  }

  void AddLogs() {
    std::error_code error;
    fs::create_directory(folder_ + "/logs");
    fs::directory_iterator it(DataDir(context_) + "/logs", error);
    if (error) return Missing("logs", absl::NotFoundError(error.message()));
    for (const fs::directory_entry& entry : it) {
      if (entry.path().extension() != ".log" || !entry.is_regular_file(error)) continue;
      const std::string name = absl::StrCat("logs/", entry.path().filename().string());
      std::ifstream in(entry.path(), std::ios::binary | std::ios::ate);
      const std::streamoff size = in.tellg();
      in.seekg(std::max<std::streamoff>(0, size - kLogBytes));
      std::string end(static_cast<size_t>(std::clamp<std::streamoff>(size, 0, kLogBytes)), '\0');
      if (!in.read(end.data(), static_cast<std::streamsize>(end.size()))) {
        Missing(name, absl::UnavailableError(std::strerror(errno)));
        continue;
      }
      std::ofstream out(absl::StrCat(folder_, "/", name));
      out << end << std::flush;  // not in.rdbuf(): where that stops halfway nobody is told
      NoteFault(out, name);
    }
  }

  void AddMissing() {
    if (!missing_.empty()) Add("missing.txt", missing_);
  }

 private:
  void NoteFault(const std::ofstream& out, const std::string& name) {
    if (out.good() || !fault_.ok()) return;
    fault_ = absl::ResourceExhaustedError(
        absl::StrCat(folder_, "/", name, ": cannot be written: ", std::strerror(errno)));
  }

  const Context& context_;
  const std::string folder_;
  std::string missing_;
  absl::Status fault_;
};

}  // namespace

absl::Status WriteBundle(const Context& context, const std::string& doctor_json,
                         const std::string& file) {
  std::error_code error;
  if (fs::exists(file, error))
    return absl::AlreadyExistsError(absl::StrCat(file, ": exists already"));
  std::string folder = (fs::temp_directory_path() / "shiftadd-bundle-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(folder, ": cannot be made"));
  }
  const absl::Cleanup remove = [&folder] {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  };
  Bundle bundle(context, folder);
  bundle.Add("doctor.json", doctor_json);
  bundle.Add("version.txt", VersionLine());
  bundle.AddVariables();
  bundle.AddCluster();
  bundle.AddJobs();
  bundle.AddLogs();
  bundle.AddMissing();
  SA_RETURN_IF_ERROR(bundle.fault());
  // Under another name until it is whole: on a full disk a part would stay.
  const std::string target = AbsolutePath(file);
  const std::string partial = absl::StrCat(target, ".", getpid(), ".partial");
  const auto tar = RunChild({"/usr/bin/env", "tar", "-czf", partial, "-C", folder, "--transform",
                             "s,^\\.,shiftadd-bundle,", "."},
                            kTarTimeout);
  if (tar.ok()) fs::rename(partial, target, error);
  if (tar.ok() && !error) return absl::OkStatus();
  std::error_code ignored;
  fs::remove(partial, ignored);
  return Annotate(tar.ok() ? absl::InternalError(error.message()) : tar.status(), file);
}

}  // namespace shiftadd::cli
