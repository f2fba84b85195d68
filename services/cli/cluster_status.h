// What a cluster's coordinators and packagers say of it, each address asked by itself.
#ifndef SHIFTADD_SERVICES_CLI_CLUSTER_STATUS_H_
#define SHIFTADD_SERVICES_CLI_CLUSTER_STATUS_H_

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "shiftadd/v1/job.pb.h"
#include "shiftadd/v1/package.pb.h"

namespace shiftadd::cli {

// One daemon, and why it gave no answer.
struct AskedAddress {
  std::string address;
  absl::Status status;
};

struct ClusterStatus {
  std::vector<AskedAddress> coordinators, packagers;
  // Of the first coordinator whose database answers, else of the first that answers at all; nothing
  // if none does.
  std::optional<v1::ClusterStatus> work;
  // Whether the blob store answers a packager; nothing if none could be asked.
  std::optional<absl::Status> blobs;
  // Of all packagers together.
  std::vector<v1::Replica> replicas;
};

// `coordinators`, `packagers`: addresses with commas; empty: nobody to ask. All are asked at once,
// and none is waited for longer than some seconds.
ClusterStatus AskCluster(const std::string& coordinators, const std::string& packagers);

// Whether somebody of each kind that was asked has answered.
bool EachKindAnswers(const ClusterStatus& status);
// Whether the stores that they told of answer them: of several coordinators' databases one.
bool StoresAnswer(const ClusterStatus& status);

// Tables and lines for people; a job's error is one line.
std::string FormatClusterStatus(const ClusterStatus& status);
// coordinators and packagers [{address, reachable, error}], database and blobs {reachable, error},
// jobs {STATE: count}, failed_jobs, tasks {ready, running}, workers, replicas. What nobody could be
// asked for is null.
nlohmann::ordered_json ClusterStatusJson(const ClusterStatus& status);

// --- What a WorkerInfo's state says ---
bool IsLost(const v1::WorkerInfo& worker);
// Cordoned or drained: it gets no other task.
bool IsOutOfWork(const v1::WorkerInfo& worker);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_CLUSTER_STATUS_H_
