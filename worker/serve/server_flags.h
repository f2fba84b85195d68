// The command line of shiftadd-server.
#ifndef SHIFTADD_WORKER_SERVE_SERVER_FLAGS_H_
#define SHIFTADD_WORKER_SERVE_SERVER_FLAGS_H_

#include <cstdint>
#include <string>

#include "worker/serve/package_source.h"
#include "worker/serve/packed_model.h"

namespace shiftadd {

struct ServerFlags {
  PackageLocation package;
  std::string listen = "127.0.0.1:7072";
  std::string http = "127.0.0.1:8000";
  std::string port_file;
  PackedModelOptions model;
  int64_t context = 0;  // 0: the trained length, at most 8192
  int queue = 64;
  int sequences = 4;
  double drain_seconds = 30;
  bool insecure = false;
};

// Fills `flags` from the command line and SHIFTADD_SERVER_* variables. Returns -1 to go on, or the
// exit code: 0 after
// --help and --version, 2 for a mistake (said on stderr).
int ParseServerFlags(int argc, char** argv, ServerFlags* flags);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SERVER_FLAGS_H_
