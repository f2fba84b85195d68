// What every daemon's command line has in common: where settings come from, its log, its protection
// and how it tells its ports.
#ifndef SHIFTADD_SERVICES_DAEMON_DAEMON_FLAGS_H_
#define SHIFTADD_SERVICES_DAEMON_DAEMON_FLAGS_H_

#include <CLI/CLI.hpp>
#include <initializer_list>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "services/access/security_flags.h"

namespace shiftadd {

struct DaemonFlags {
  std::string log_level = "info";   // trace, debug, info, warn, error
  std::string log_format = "text";  // or json
  std::string port_file;
  access::SecurityFlags security;
};

// Adds --config, --log-level, --log-format, --port-file, --insecure-i-know and the security flags
// to `app`, and makes what the command line leaves open come from variables, then from the file. Of
// `daemon`, say "coordinator", --port-file and --insecure-i-know read SHIFTADD_COORDINATOR_…; the
// others' variables are one for all daemons: SHIFTADD_LOG_LEVEL and so on.
// `flags` must outlive `app`.
void AddDaemonFlags(CLI::App* app, absl::string_view daemon, DaemonFlags* flags);

// Nothing to go on, or the exit code: 0 after --help and the like, 2 for a mistake (said on
// stderr).
std::optional<int> ParseFlags(CLI::App* app, int argc, const char* const* argv);

// Writes `ports` to --port-file, one a line, whole or not at all. No file asked for: OK.
absl::Status WritePortFile(const std::string& path, std::initializer_list<int> ports);

// Says on stderr what `daemon` failed of. The exit code: 0 if OK, else 1.
// CANCELLED: it was told to end before it served, which is as good an end as any.
int ExitCode(absl::string_view daemon, const absl::Status& status);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_DAEMON_DAEMON_FLAGS_H_
