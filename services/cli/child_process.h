// Starting and stopping daemons.
#ifndef SHIFTADD_SERVICES_CLI_CHILD_PROCESS_H_
#define SHIFTADD_SERVICES_CLI_CHILD_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace shiftadd::cli {

struct ChildOptions {
  std::vector<std::string> command;  // an absolute path, then arguments
  std::string log;                   // stdout and stderr are appended to it; empty: they stay ours
  bool dies_with_parent = true;      // SIGTERM when the process that started it is gone
  int out = -1, err = -1;            // descriptors that become stdout and stderr; -1: as `log` says
};

// Starts it in a process group of its own, with no signal blocked. INTERNAL if it cannot be
// executed.
absl::StatusOr<pid_t> StartChild(const ChildOptions& options);

// What a child wrote, all of it.
struct ChildOutput {
  std::string out, err;
};
// Runs it to its end. INTERNAL if it does not end with exit code 0: the message names how it ended
// and has the end of what it wrote to stderr. DEADLINE_EXCEEDED: it was killed after `timeout`.
// `err_passes`: what it writes to stderr goes to ours instead, as it comes.
absl::StatusOr<ChildOutput> RunChild(const std::vector<std::string>& command,
                                     absl::Duration timeout, bool err_passes = false);

// The folder that this program's executable is in.
std::string OwnBinDir();
// BIN_DIR/NAME, if it is there and executable; NOT_FOUND says what to build.
absl::StatusOr<std::string> FindBinary(const std::string& name);

// True while `pid` lives (zombies do not) and runs an executable of that file name: pids are
// reused.
bool RunsBinary(pid_t pid, const std::string& binary);

// SIGTERM, then SIGKILL after `grace`. For processes that need not be our children. Returns when it
// is gone.
void StopProcess(pid_t pid, const std::string& binary, absl::Duration grace);

// "exit code 1", "signal 9 (Killed)".
std::string DescribeExit(int wait_status);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_CHILD_PROCESS_H_
