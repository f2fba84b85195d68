#include "services/cli/running_cluster.h"

#include <algorithm>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "services/base/status_macros.h"
#include "services/cli/child_process.h"
#include "services/cli/cluster_lock.h"
#include "services/cli/files.h"
#include "services/cli/http_probe.h"

namespace shiftadd::cli {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(60);
constexpr absl::Duration kTick = absl::Milliseconds(100);

bool IsWorker(const DaemonInfo& daemon) { return absl::StartsWith(daemon.name, "worker"); }

int CountWorkers(const ClusterInfo& cluster) {
  return static_cast<int>(std::count_if(cluster.daemons.begin(), cluster.daemons.end(), IsWorker));
}

std::string Workers(int count) { return absl::StrCat(count, count == 1 ? " worker" : " workers"); }

std::vector<std::string> GivenUp(const ClusterInfo& cluster) {
  std::vector<std::string> names;
  for (const DaemonInfo& daemon : cluster.daemons) {
    if (daemon.given_up) names.push_back(daemon.name);
  }
  return names;
}

// The endpoint file of the supervisor that runs.
absl::StatusOr<ClusterInfo> AwaitCluster(const std::string& data_dir) {
  for (const absl::Time end = absl::Now() + kStartTimeout;
       absl::Now() < end && ClusterLock::Holder(data_dir) > 0; absl::SleepFor(kTick)) {
    absl::StatusOr<ClusterInfo> cluster = ReadCluster(data_dir);
    if (cluster.ok() && cluster->pid == ClusterLock::Holder(data_dir)) return cluster;
  }
  return absl::InternalError(absl::StrCat("another `shiftadd up` is busy in ", data_dir));
}

// Why one of `names` does not run and answer; empty if all do.
std::string Fault(const ClusterInfo& cluster, const std::vector<std::string>& names) {
  for (const DaemonInfo& daemon : cluster.daemons) {
    if (std::find(names.begin(), names.end(), daemon.name) == names.end()) continue;
    if (daemon.given_up) return absl::StrCat(daemon.name, " died too often and was given up");
    if (!RunsBinary(daemon.pid, BinaryOf(daemon)))
      return absl::StrCat(daemon.name, " does not run");
    if (const absl::Status ready = ProbeReady(daemon.http); !ready.ok())
      return absl::StrCat(daemon.name, " is not ready: ", ready.message());
  }
  return "";
}

// Has the supervisor start them, and waits until they are ready.
absl::Status StartAgain(const std::string& data_dir, const std::vector<std::string>& names) {
  SA_RETURN_IF_ERROR(WriteFileAtomically(StartAgainFile(data_dir), ""));
  std::string fault = "the supervisor does not answer";
  for (const absl::Time end = absl::Now() + kStartTimeout; absl::Now() < end;
       absl::SleepFor(kTick)) {
    // It takes the file away once the endpoint file tells of the start.
    if (ReadFile(StartAgainFile(data_dir), 1).ok()) continue;
    SA_ASSIGN_OR_RETURN(const ClusterInfo cluster, ReadCluster(data_dir));
    fault = Fault(cluster, names);
    if (fault.empty()) return absl::OkStatus();
  }
  const std::string log = absl::StrCat(data_dir, "/logs/", names[0], ".log");
  return absl::InternalError(absl::StrCat(
      "the cluster in ", data_dir, " is up without ", absl::StrJoin(names, ", "), ", which ",
      names.size() == 1 ? "was" : "were", " given up and could not be started again (", fault,
      "); the end of ", log, ":\n", TailOfFile(log, 1), "once its cause is gone: ",
      DownCommand(data_dir), ", then up again; jobs go on where they are"));
}

absl::Status CheckWorkers(const ClusterInfo& cluster, const std::string& data_dir, int workers) {
  const int has = CountWorkers(cluster);
  if (workers == has) return absl::OkStatus();
  const std::vector<std::string> given_up = GivenUp(cluster);
  return absl::FailedPreconditionError(absl::StrCat(
      "--workers ", workers, ": the cluster in ", data_dir, " is up with ", Workers(has),
      given_up.empty() ? ""
                       : absl::StrCat(", of which ", absl::StrJoin(given_up, ", "),
                                      " died too often and was given up"),
      ", and nothing was changed; for another number: ", DownCommand(data_dir),
      ", then up --workers ", workers, "; jobs go on where they are",
      given_up.empty() ? "" : "; to start again what was given up: shiftadd up"));
}

absl::Status Check(Context& context, const std::string& data_dir, std::optional<int> workers) {
  SA_ASSIGN_OR_RETURN(const ClusterInfo cluster, AwaitCluster(data_dir));
  if (workers.has_value()) SA_RETURN_IF_ERROR(CheckWorkers(cluster, data_dir, *workers));
  if (const std::vector<std::string> names = GivenUp(cluster); !names.empty()) {
    SA_RETURN_IF_ERROR(StartAgain(data_dir, names));
    context.out << "started again, after it was given up: " << absl::StrJoin(names, ", ") << "\n";
  }
  context.out << "already up: coordinator " << cluster.coordinator << ", packager "
              << cluster.packager << ", " << Workers(CountWorkers(cluster)) << ", in " << data_dir
              << "\n";
  return absl::OkStatus();
}

}  // namespace

std::string BinaryOf(const DaemonInfo& daemon) {
  return IsWorker(daemon) ? "shiftadd-worker" : absl::StrCat("shiftadd-", daemon.name);
}

int AlreadyUp(Context& context, const std::string& data_dir, std::optional<int> workers) {
  return Report(context, Check(context, data_dir, workers));
}

}  // namespace shiftadd::cli
