#include "services/cli/interrupt.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace shiftadd::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);

// Lock-free, so a signal handler may set it.
std::atomic<bool> g_interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);

void OnSignal(int) { g_interrupted = true; }

}  // namespace

InterruptGuard::InterruptGuard(std::function<void()> on_interrupt,
                               const std::vector<int>& signals) {
  g_interrupted = false;
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  for (const int signal : signals) sigaction(signal, &action, &previous_[signal]);
  thread_ = std::thread([this, call = std::move(on_interrupt)] {
    while (!stop_) {
      if (g_interrupted) {
        call();
        return;
      }
      absl::SleepFor(kTick);
    }
  });
}

InterruptGuard::~InterruptGuard() {
  stop_ = true;
  thread_.join();
  for (const auto& [signal, previous] : previous_) sigaction(signal, &previous, nullptr);
}

bool InterruptGuard::interrupted() const { return g_interrupted; }

void InterruptGuard::Sleep(absl::Duration duration) const {
  for (const absl::Time end = absl::Now() + duration; !interrupted() && absl::Now() < end;) {
    absl::SleepFor(std::min(kTick, end - absl::Now()));
  }
}

}  // namespace shiftadd::cli
