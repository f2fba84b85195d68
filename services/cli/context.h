// What every command gets: where to write, and which daemons to talk to.
#ifndef SHIFTADD_SERVICES_CLI_CONTEXT_H_
#define SHIFTADD_SERVICES_CLI_CONTEXT_H_

#include <functional>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "services/access/security_flags.h"

namespace shiftadd::cli {

// Exit codes of the program.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitUnreachable = 3;

// Lives as long as the program (or one test).
struct Context {
  std::ostream& out;
  std::ostream& err;
  bool terminal = false;  // `out` is a terminal that can be redrawn
  bool color = false;     // terminal, and NO_COLOR is not set

  // From the flags; empty or false where not given.
  std::string coordinator;
  std::string packager;
  std::string data_dir;
  bool json = false;
  access::SecurityFlags security;
  std::string certs;  // folder as deploy/certs.sh fills it

  // Set by the subcommand that was parsed; its result is the exit code.
  std::function<int()> action;
};

// 0 for OK; 3 for UNAVAILABLE and DEADLINE_EXCEEDED; 2 for INVALID_ARGUMENT; else 1.
int ExitCode(const absl::Status& status);

// Writes "shiftadd: message" to err unless `status` is OK, and returns its exit code.
int Report(Context& context, const absl::Status& status);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_CONTEXT_H_
