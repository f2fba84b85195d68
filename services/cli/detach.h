// Going to the background, with word back to the terminal until all is ready.
#ifndef SHIFTADD_SERVICES_CLI_DETACH_H_
#define SHIFTADD_SERVICES_CLI_DETACH_H_

#include <functional>
#include <string>

#include "services/cli/context.h"

namespace shiftadd::cli {

// Words of a process in the background to the one that started it. Each call also writes to the
// log.
class Reporter {
 public:
  explicit Reporter(int fd) : fd_(fd) {}
  void Say(const std::string& text) const;
  // After one of these the starter leaves, with exit code 0 or 1.
  void Ready();
  void Failed(const std::string& text);

 private:
  void Send(char kind, const std::string& text) const;
  int fd_;
};

// Runs `work` in a process of its own session, without a terminal, its output appended to `log`;
// waits until it reports Ready or Failed, or ends, and returns the exit code. Call before any
// thread exists.
int Detach(Context& context, const std::string& log, const std::function<void(Reporter&)>& work);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_DETACH_H_
