#include "services/rpc/stall_guard.h"

#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "absl/time/clock.h"

namespace shiftadd::rpc {
namespace {

// How late a stalled call may be noticed. The watch sleeps at most so long while there are calls,
// so that adding one, which happens with every piece of every stream, need not wake it.
constexpr absl::Duration kLook = absl::Milliseconds(500);

// One thread for all calls of the process.
class Watch {
 public:
  // Never destroyed: calls may outlive main.
  static Watch& Get() {
    static Watch& watch = *new Watch;
    return watch;
  }

  void Add(absl::Time end, grpc::ServerContext* context) {
    const std::lock_guard<std::mutex> hold(mutex_);
    calls_.emplace(end, context);
    if (calls_.size() == 1) added_.notify_one();
  }

  void Remove(absl::Time end, grpc::ServerContext* context) {
    const std::lock_guard<std::mutex> hold(mutex_);
    calls_.erase({end, context});
  }

 private:
  Watch() {
    std::thread([this] { Run(); }).detach();
  }

  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      added_.wait(lock, [this] { return !calls_.empty(); });
      const absl::Time now = absl::Now();
      while (!calls_.empty() && calls_.begin()->first <= now) {
        // Under the lock, so that Remove keeps the context alive until it is done.
        calls_.begin()->second->TryCancel();
        calls_.erase(calls_.begin());
      }
      lock.unlock();
      absl::SleepFor(kLook);
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable added_;
  std::set<std::pair<absl::Time, grpc::ServerContext*>> calls_;
};

}  // namespace

StallGuard::StallGuard(grpc::ServerContext* context, absl::Duration limit)
    : end_(absl::Now() + limit), context_(context) {
  Watch::Get().Add(end_, context_);
}

StallGuard::~StallGuard() { Watch::Get().Remove(end_, context_); }

}  // namespace shiftadd::rpc
