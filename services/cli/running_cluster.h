// `up` where a cluster is up.
#ifndef SHIFTADD_SERVICES_CLI_RUNNING_CLUSTER_H_
#define SHIFTADD_SERVICES_CLI_RUNNING_CLUSTER_H_

#include <optional>
#include <string>

#include "services/cli/context.h"
#include "services/cli/endpoints.h"

namespace shiftadd::cli {

// The file name of a daemon's executable.
std::string BinaryOf(const DaemonInfo& daemon);

// Says what the cluster of `data_dir` is, waited for while it starts, and has its supervisor start
// again what that has given up. An error if that does not become ready, or if not `workers`, where
// that was asked for, are what it has. Returns the exit code.
int AlreadyUp(Context& context, const std::string& data_dir, std::optional<int> workers);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_RUNNING_CLUSTER_H_
