#include "tests/cluster.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/rpc/rpc.h"

namespace shiftadd::testing {
namespace {
constexpr size_t kLogTail = 3000;
constexpr absl::Duration kRpcTimeout = absl::Seconds(15);
}  // namespace

std::string Binary(const std::string& name) {
  const char* const folder = std::getenv("SHIFTADD_TEST_BIN");
  return absl::StrCat(folder != nullptr ? folder : SHIFTADD_BIN_DIR, "/", name);
}

std::vector<int> WaitForPorts(const std::string& port_file, Process* process,
                              const std::string& log, absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  while (absl::Now() < end && process->running()) {
    if (std::filesystem::exists(port_file)) {
      std::istringstream in(ReadFile(port_file));
      std::vector<int> ports;
      for (int port = 0; in >> port;) ports.push_back(port);
      if (!ports.empty()) return ports;
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
  std::fprintf(stderr, "no %s; log:\n%s\n", port_file.c_str(), ReadFile(log).c_str());
  std::abort();
}

bool Ended(const v1::Job& job) {
  return job.state() == v1::JOB_STATE_SUCCEEDED || job.state() == v1::JOB_STATE_FAILED ||
         job.state() == v1::JOB_STATE_CANCELLED;
}

Cluster::Cluster(const std::string& source_root, int lease_seconds, const std::string& store_dir)
    : dir_(NewTempDir("cluster")),
      source_root_(source_root),
      store_dir_(store_dir.empty() ? dir_ + "/store" : store_dir),
      lease_seconds_(lease_seconds) {
  StartPackager();
  packages_ = v1::PackageService::NewStub(rpc::MakeChannel(packager_address()));
  StartCoordinator();
}

Cluster::~Cluster() {
  for (Process& worker : workers_) worker.Kill();
  coordinator_.Kill();
  packager_.Kill();
  std::error_code ignored;
  if (std::getenv("SHIFTADD_TEST_KEEP") == nullptr) std::filesystem::remove_all(dir_, ignored);
}

void Cluster::StartPackager() {
  const std::string port_file = dir_ + "/packager.port", log = dir_ + "/packager.log";
  std::filesystem::remove(port_file);
  packager_ =
      Process({Binary("shiftadd-packager"), "--listen", absl::StrCat("127.0.0.1:", packager_port_),
               "--http", "127.0.0.1:0", "--data-dir", dir_ + "/packager", "--blobs", store_dir(),
               "--port-file", port_file},
              log);
  packager_port_ = WaitForPorts(port_file, &packager_, log)[0];
}

void Cluster::StartCoordinator() {
  const std::string port_file = dir_ + "/coordinator.port", log = dir_ + "/coordinator.log";
  std::filesystem::remove(port_file);
  coordinator_ =
      Process({Binary("shiftadd-coordinator"), "--listen",
               absl::StrCat("127.0.0.1:", coordinator_port_), "--http", "127.0.0.1:0", "--data-dir",
               dir_ + "/coordinator", "--packager", packager_address(), "--blobs", store_dir(),
               "--lease-seconds", absl::StrCat(lease_seconds_), "--port-file", port_file},
              log);
  coordinator_port_ = WaitForPorts(port_file, &coordinator_, log)[0];
  jobs_ = v1::JobService::NewStub(rpc::MakeChannel(coordinator_address()));
}

size_t Cluster::AddWorker() {
  const size_t index = workers_.size();
  const std::string log = absl::StrCat(dir_, "/worker", index, ".log");
  const std::string port_file = absl::StrCat(dir_, "/worker", index, ".port");
  workers_.emplace_back(
      std::vector<std::string>{Binary("shiftadd-worker"), "--coordinator", coordinator_address(),
                               "--blobs", store_dir(), "--source-root", source_root_, "--http",
                               "127.0.0.1:0", "--threads", "1", "--worker-id",
                               absl::StrCat("worker-", index), "--port-file", port_file},
      log);
  WaitForPorts(port_file, &workers_.back(), log);
  return index;
}

std::string Cluster::coordinator_address() const {
  return absl::StrCat("127.0.0.1:", coordinator_port_);
}
std::string Cluster::packager_address() const { return absl::StrCat("127.0.0.1:", packager_port_); }

absl::StatusOr<v1::Job> Cluster::Submit(const v1::JobSpec& spec, bool validate_only) {
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec;
  request.set_request_id(NewId("test"));
  request.set_validate_only(validate_only);
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kRpcTimeout);
  v1::Job job;
  const grpc::Status status = jobs_->SubmitJob(&context, request, &job);
  if (!status.ok()) return rpc::FromGrpc(status);
  return job;
}

absl::StatusOr<v1::Job> Cluster::Get(const std::string& job_id) {
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kRpcTimeout);
  v1::Job job;
  const grpc::Status status = jobs_->GetJob(&context, request, &job);
  if (!status.ok()) return rpc::FromGrpc(status);
  return job;
}

absl::StatusOr<v1::Job> Cluster::WaitUntil(const std::string& job_id,
                                           const std::function<bool(const v1::Job&)>& done,
                                           absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  absl::StatusOr<v1::Job> job = absl::UnknownError("not asked yet");
  while (absl::Now() < end) {
    job = Get(job_id);
    if (job.ok() && done(*job)) return job;
    if (job.ok() && Ended(*job)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the job ended as ", v1::JobState_Name(job->state()), ": ", job->error(), "\n", Logs()));
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  const std::string state = job.ok() ? v1::JobState_Name(job->state()) : job.status().ToString();
  return absl::DeadlineExceededError(absl::StrCat("the job stands at ", state, "\n", Logs()));
}

absl::StatusOr<v1::Job> Cluster::WaitForEnd(const std::string& job_id, absl::Duration timeout) {
  return WaitUntil(job_id, Ended, timeout);
}

absl::StatusOr<v1::Job> Cluster::WaitForSuccess(const std::string& job_id, absl::Duration timeout) {
  SA_ASSIGN_OR_RETURN(const v1::Job job, WaitForEnd(job_id, timeout));
  if (job.state() == v1::JOB_STATE_SUCCEEDED) return job;
  return absl::FailedPreconditionError(absl::StrCat(
      "the job ended as ", v1::JobState_Name(job.state()), ": ", job.error(), "\n", Logs()));
}

absl::Status Cluster::EndsAs(const std::string& job_id, const std::string& package_digest) {
  SA_ASSIGN_OR_RETURN(const v1::Job job, WaitForSuccess(job_id));
  if (job.package_digest() != package_digest) {
    return absl::DataLossError(absl::StrCat("the package is ", job.package_digest(), ", expected ",
                                            package_digest, "\n", Logs()));
  }
  SA_ASSIGN_OR_RETURN(const std::vector<v1::JobEvent> events, Events(job_id));
  for (size_t i = 0; i < events.size(); ++i) {
    if (events[i].sequence() == i + 1) continue;
    return absl::DataLossError(absl::StrCat("event ", i + 1, " of ", events.size(),
                                            " has the sequence number ", events[i].sequence()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::JobEvent>> Cluster::Events(const std::string& job_id) {
  v1::WatchJobRequest request;
  request.set_job_id(job_id);
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kRpcTimeout);
  auto reader = jobs_->WatchJob(&context, request);
  std::vector<v1::JobEvent> events;
  for (v1::JobEvent event; reader->Read(&event);) events.push_back(event);
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return rpc::FromGrpc(status);
  return events;
}

RunResult Cluster::Shiftadd(const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {"bash", "-c", absl::StrCat("exec \"$@\" 2>", dir_, "/stderr"),
                                   "--", Binary("shiftadd")};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return RunCommand(argv, absl::Seconds(200),
                    {absl::StrCat("SHIFTADD_COORDINATOR=", coordinator_address()),
                     absl::StrCat("SHIFTADD_PACKAGER=", packager_address())});
}

std::string Cluster::Errors() const { return ReadFile(dir_ + "/stderr"); }

std::string Cluster::Logs() const {
  std::string all;
  for (const auto& entry : std::filesystem::directory_iterator(dir_)) {
    if (entry.path().extension() != ".log") continue;
    std::string text = ReadFile(entry.path().string());
    if (text.size() > kLogTail) text = "…" + text.substr(text.size() - kLogTail);
    absl::StrAppend(&all, "--- ", entry.path().filename().string(), "\n", text, "\n");
  }
  return all;
}

}  // namespace shiftadd::testing
