// Finds the daemons: flags, then SHIFTADD_* variables, then the file that `up` writes.
#ifndef SHIFTADD_SERVICES_CLI_ENDPOINTS_H_
#define SHIFTADD_SERVICES_CLI_ENDPOINTS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/context.h"

namespace shiftadd::cli {

// One daemon of a local cluster.
struct DaemonInfo {
  std::string name;  // coordinator, packager, worker-1, …
  int pid = 0;
  std::string grpc;  // host:port; empty for workers
  std::string http;  // host:port
  int restarts = 0;
  bool given_up = false;  // died too often and is not restarted
};

// DATA/cluster.json.
struct ClusterInfo {
  int pid = 0;  // of the supervisor
  std::string coordinator;
  std::string packager;
  std::string blobs;   // folder of the blob store
  std::string certs;   // --certs of `up`; empty: plain text
  std::string tokens;  // --tokens of `up`
  std::vector<DaemonInfo> daemons;
};

// The absolute data directory: --data-dir, or SHIFTADD_DATA_DIR, or ~/.local/share/shiftadd.
std::string DataDir(const Context& context);

std::string ClusterFile(const std::string& data_dir);
// Whoever writes it asks the supervisor to start again what it has given up; the supervisor removes
// it once ClusterFile tells that it does.
std::string StartAgainFile(const std::string& data_dir);
// Atomic (temp file and rename).
absl::Status WriteCluster(const std::string& data_dir, const ClusterInfo& cluster);
// NOT_FOUND if there is none; DATA_LOSS if it cannot be read as one.
absl::StatusOr<ClusterInfo> ReadCluster(const std::string& data_dir);

// host:port of a daemon. UNAVAILABLE says how to name one.
absl::StatusOr<std::string> CoordinatorAddress(const Context& context);
absl::StatusOr<std::string> PackagerAddress(const Context& context);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_ENDPOINTS_H_
