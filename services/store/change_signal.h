// Wakes who waits for changes of a store.
#ifndef SHIFTADD_SERVICES_STORE_CHANGE_SIGNAL_H_
#define SHIFTADD_SERVICES_STORE_CHANGE_SIGNAL_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "absl/time/time.h"

namespace shiftadd {

// Thread-safe.
class ChangeSignal {
 public:
  void Announce() {
    const std::lock_guard<std::mutex> hold(mutex_);
    ++changes_;
    changed_.notify_all();
  }
  // See JobStore::AwaitChange.
  uint64_t Await(uint64_t seen, absl::Duration timeout) {
    std::unique_lock<std::mutex> hold(mutex_);
    changed_.wait_for(hold, absl::ToChronoMilliseconds(timeout),
                      [&] { return stopped_ || changes_ != seen; });
    return changes_;
  }
  // Ends every wait at once, now and later.
  void Stop() {
    const std::lock_guard<std::mutex> hold(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t changes_ = 1;
  bool stopped_ = false;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_CHANGE_SIGNAL_H_
