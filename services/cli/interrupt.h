// Ctrl-C and SIGTERM as something to ask for instead of the end of the process.
#ifndef SHIFTADD_SERVICES_CLI_INTERRUPT_H_
#define SHIFTADD_SERVICES_CLI_INTERRUPT_H_

#include <signal.h>

#include <atomic>
#include <functional>
#include <thread>

#include "absl/time/time.h"

namespace shiftadd::cli {

// While it lives, SIGINT or SIGTERM sets a flag and calls `on_interrupt` once, on a thread of its
// own, within 50 ms. One at a time in a process.
class InterruptGuard {
 public:
  explicit InterruptGuard(std::function<void()> on_interrupt);
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const;
  // Sleeps for `duration`, or less when interrupted.
  void Sleep(absl::Duration duration) const;

 private:
  struct sigaction previous_int_, previous_term_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_INTERRUPT_H_
