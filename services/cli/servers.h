// Servers that `serve` has started: one small JSON file each under DATA/servers.
#ifndef SHIFTADD_SERVICES_CLI_SERVERS_H_
#define SHIFTADD_SERVICES_CLI_SERVERS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace shiftadd::cli {

inline constexpr char kServerBinary[] = "shiftadd-server";

struct ServerInfo {
  int pid = 0;
  std::string reference;  // name:tag
  std::string digest;     // of the package when it started
  std::string http;       // host:port
  std::string grpc;       // host:port
};

// By HTTP port; makes the folder.
absl::Status WriteServer(const std::string& data_dir, const ServerInfo& server);
void RemoveServer(const std::string& data_dir, const ServerInfo& server);
// Those whose process lives; the files of others are removed.
std::vector<ServerInfo> RunningServers(const std::string& data_dir);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_SERVERS_H_
