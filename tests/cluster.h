// A real cluster on loopback: packager, coordinator and workers as processes.
#ifndef SHIFTADD_TESTS_CLUSTER_H_
#define SHIFTADD_TESTS_CLUSTER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "shiftadd/v1/generate.grpc.pb.h"
#include "shiftadd/v1/job.grpc.pb.h"
#include "shiftadd/v1/package.grpc.pb.h"
#include "tests/process.h"

namespace shiftadd::testing {

class Cluster {
 public:
  // Starts the packager and the coordinator in a fresh folder. Sources must lie under
  // `source_root`.
  // `store_dir` empty: a folder of its own.
  explicit Cluster(const std::string& source_root, int lease_seconds = 3,
                   const std::string& store_dir = "");
  ~Cluster();

  // Starts a worker; returns its index.
  size_t AddWorker();
  void KillWorker(size_t index) { workers_[index].Kill(); }
  void SignalWorker(size_t index, int signal) { workers_[index].Signal(signal); }
  Process& worker(size_t index) { return workers_[index]; }
  void StartPackager();
  void KillPackager() { packager_.Kill(); }
  void StartCoordinator();
  void KillCoordinator() { coordinator_.Kill(); }
  Process& coordinator() { return coordinator_; }

  v1::JobService::Stub& jobs() { return *jobs_; }
  v1::PackageService::Stub& packages() { return *packages_; }
  std::string coordinator_address() const;
  std::string packager_address() const;
  const std::string& dir() const { return dir_; }
  const std::string& store_dir() const { return store_dir_; }

  absl::StatusOr<v1::Job> Submit(const v1::JobSpec& spec, bool validate_only = false);
  absl::StatusOr<v1::Job> Get(const std::string& job_id);
  // Polls until `done` says so; DEADLINE_EXCEEDED names the state it stood at. Rides out a
  // coordinator that is away.
  absl::StatusOr<v1::Job> WaitUntil(const std::string& job_id,
                                    const std::function<bool(const v1::Job&)>& done,
                                    absl::Duration timeout = absl::Seconds(120));
  // Until the job has ended.
  absl::StatusOr<v1::Job> WaitForEnd(const std::string& job_id,
                                     absl::Duration timeout = absl::Seconds(120));
  // Waits for the end of a job that is to succeed and gives what it has made; FAILED_PRECONDITION
  // with its error and the logs if it has not.
  absl::StatusOr<v1::Job> WaitForSuccess(const std::string& job_id,
                                         absl::Duration timeout = absl::Seconds(120));
  // How every disturbed run is to end: success, the bytes of an undisturbed one, and events that
  // are numbered from 1 without gaps. The error says what else was found.
  absl::Status EndsAs(const std::string& job_id, const std::string& package_digest);
  // Every event up to the end of a job that has ended.
  absl::StatusOr<std::vector<v1::JobEvent>> Events(const std::string& job_id);
  // `shiftadd ARGUMENTS` against this cluster: the exit code, and what a pipe would get. What went
  // to stderr: Errors().
  RunResult Shiftadd(const std::vector<std::string>& arguments);
  std::string Errors() const;
  // The ends of all logs, for failure messages.
  std::string Logs() const;

 private:
  std::string dir_, source_root_, store_dir_;
  int lease_seconds_;
  int packager_port_ = 0, coordinator_port_ = 0;
  Process packager_, coordinator_;
  std::vector<Process> workers_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::PackageService::Stub> packages_;
};

// The path of one of the project's binaries: of this build, or of the folder that the environment
// variable SHIFTADD_TEST_BIN names.
std::string Binary(const std::string& name);
// Waits for a port file; its numbers, or aborts the test program with the log after `timeout`.
std::vector<int> WaitForPorts(const std::string& port_file, Process* process,
                              const std::string& log, absl::Duration timeout = absl::Seconds(20));
bool Ended(const v1::Job& job);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_CLUSTER_H_
