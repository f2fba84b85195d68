// The command line of shiftadd-server.
#ifndef SHIFTADD_WORKER_SERVE_SERVER_FLAGS_H_
#define SHIFTADD_WORKER_SERVE_SERVER_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "services/access/security_flags.h"
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
  std::string port_file;
  std::string advertise;  // host; empty: that of each address
  LoadOptions load;
  Replacing replacing = Replacing::kAuto;
  int64_t cache_mib = 512;
  double drain_seconds = 30;
  bool bench = false;  // measure, print and end in place of serving
  BenchOptions bench_options;
  access::SecurityFlags security;
  std::string log_format = "text";  // or json
  std::string api_key_file;
  std::string require_signature;  // file of a public key
  std::vector<std::string> cors_origins;

  std::vector<PackageLocation> Locations() const;
};

// Fills `flags` from the command line and SHIFTADD_SERVER_* variables. Returns -1 to go on, or the
// exit code: 0 after
// --help and --version, 2 for a mistake (said on stderr).
int ParseServerFlags(int argc, char** argv, ServerFlags* flags);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SERVER_FLAGS_H_
