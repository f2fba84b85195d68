// Ctrl-C as something to ask for instead of the end of the process.
#ifndef SHIFTADD_SERVICES_CLI_INTERRUPT_H_
#define SHIFTADD_SERVICES_CLI_INTERRUPT_H_

#include <signal.h>

#include <atomic>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "absl/time/time.h"

namespace shiftadd::cli {

// While it lives, SIGINT (or any of `signals`) sets a flag and calls `on_interrupt` once, on a
// thread of its own, within 50 ms. One at a time in a process.
class InterruptGuard {
 public:
  explicit InterruptGuard(std::function<void()> on_interrupt,
                          const std::vector<int>& signals = {SIGINT});
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const;
  // Sleeps for `duration`, or less when interrupted.
  void Sleep(absl::Duration duration) const;

 private:
  std::map<int, struct sigaction> previous_;  // by signal
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_INTERRUPT_H_
