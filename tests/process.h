// Child processes for tests that cross a process boundary.
#ifndef SHIFTADD_TESTS_PROCESS_H_
#define SHIFTADD_TESTS_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace shiftadd::testing {

// A running child. Killed with -9 on destruction unless it has been waited for. Not thread-safe.
class Process {
 public:
  Process() = default;
  // Starts argv[0]; stdout and stderr go to `log`. Aborts the test program if it cannot be started.
  // `env`: NAME=value added to the environment.
  Process(const std::vector<std::string>& argv, const std::string& log,
          const std::vector<std::string>& env = {});
  ~Process();
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;

  bool running();
  // Of one that running() has found ended: the exit status, or 128 + signal.
  int exit_code() const { return exit_code_; }
  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // The exit status, or 128 + signal. Kills with -9 after `timeout` and returns 137.
  int Wait(absl::Duration timeout);
  // kill -9 and wait.
  void Kill();

 private:
  pid_t pid_ = -1;
  int exit_code_ = -1;
};

struct RunResult {
  int exit_code = -1;
  std::string output;  // stdout and stderr
};
// Runs to the end, or kills after `timeout`. `env`: NAME=value added to the environment.
RunResult RunCommand(const std::vector<std::string>& argv,
                     absl::Duration timeout = absl::Seconds(60),
                     const std::vector<std::string>& env = {});

std::string ReadFile(const std::string& path);
void WriteFile(const std::string& path, const std::string& data);
// A new empty folder below the system's temporary folder.
std::string NewTempDir(const std::string& name);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_PROCESS_H_
