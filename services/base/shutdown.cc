#include "services/base/shutdown.h"

#include <atomic>
#include <csignal>

namespace shiftadd {
namespace {

std::atomic<bool> g_signalled{false};

sigset_t ShutdownSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

void BlockShutdownSignals() {
  const sigset_t set = ShutdownSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

bool WaitForShutdown(absl::Duration timeout) {
  if (g_signalled) return true;
  const sigset_t set = ShutdownSet();
  if (timeout == absl::InfiniteDuration()) {
    int signal = 0;
    g_signalled = sigwait(&set, &signal) == 0;
  } else {
    const timespec ts = absl::ToTimespec(timeout);
    if (sigtimedwait(&set, nullptr, &ts) > 0) g_signalled = true;
  }
  return g_signalled;
}

}  // namespace shiftadd
