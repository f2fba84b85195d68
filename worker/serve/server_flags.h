// The command line of shiftadd-server.
#ifndef SHIFTADD_WORKER_SERVE_SERVER_FLAGS_H_
#define SHIFTADD_WORKER_SERVE_SERVER_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "services/daemon/daemon_flags.h"
#include "worker/machine/bench.h"
#include "worker/serve/model_follower.h"
#include "worker/serve/model_loader.h"
#include "worker/serve/package_source.h"

namespace shiftadd {

struct ServerFlags {
  std::vector<std::string> packages;  // references
  PackageLocation source;             // where all of them come from; its reference is not set
  std::string listen = "127.0.0.1:7072";
  std::string http = "127.0.0.1:8000";
  std::string advertise;  // host; empty: that of each address
  LoadOptions load;
  Replacing replacing = Replacing::kAuto;
  int64_t cache_mib = 0;  // 0: LoadOptions::cache_bytes
  double drain_seconds = 30;
  double drain_delay_seconds = 0;
  bool bench = false;  // measure, print and end in place of serving
  BenchOptions bench_options;
  DaemonFlags daemon;
  std::string api_key_file;
  double client_requests_per_second = 0;  // 0: no limit
  std::string require_signature;          // file of a public key
  std::vector<std::string> cors_origins;

  std::vector<PackageLocation> Locations() const;
};

// Fills `flags` from the command line, SHIFTADD_SERVER_* variables and --config. Nothing to go on,
// or the exit code, as ParseFlags says.
std::optional<int> ParseServerFlags(int argc, char** argv, ServerFlags* flags);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SERVER_FLAGS_H_
