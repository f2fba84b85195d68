// Wakes who waits for changes of a store.
#ifndef SHIFTADD_SERVICES_STORE_CHANGE_SIGNAL_H_
#define SHIFTADD_SERVICES_STORE_CHANGE_SIGNAL_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "absl/time/time.h"

namespace shiftadd {

// What a commit has to tell those who wait.
enum class Change {
  kNone,
  kAny,   // something is new: planning or a watcher may go on
  kWork,  // and there may be a task for a worker that found none
};

// Thread-safe.
class ChangeSignal {
 public:
  void Announce(Change change = Change::kAny) {
    if (change == Change::kNone) return;
    const std::lock_guard<std::mutex> hold(mutex_);
    ++changes_;
    changed_.notify_all();
    if (change != Change::kWork) return;
    ++work_;
    work_changed_.notify_all();
  }
  // See JobStore::AwaitChange.
  uint64_t Await(uint64_t seen, absl::Duration timeout) {
    return Wait(&changed_, &changes_, seen, timeout);
  }
  // See JobStore::AwaitWork.
  uint64_t AwaitWork(uint64_t seen, absl::Duration timeout) {
    return Wait(&work_changed_, &work_, seen, timeout);
  }
  // Ends every wait at once, now and later.
  void Stop() {
    const std::lock_guard<std::mutex> hold(mutex_);
    stopped_ = true;
    changed_.notify_all();
    work_changed_.notify_all();
  }

 private:
  uint64_t Wait(std::condition_variable* condition, const uint64_t* count, uint64_t seen,
                absl::Duration timeout) {
    std::unique_lock<std::mutex> hold(mutex_);
    condition->wait_for(hold, absl::ToChronoMilliseconds(timeout),
                        [&] { return stopped_ || *count != seen; });
    return *count;
  }

  std::mutex mutex_;
  std::condition_variable changed_, work_changed_;
  uint64_t changes_ = 1, work_ = 1;
  bool stopped_ = false;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_CHANGE_SIGNAL_H_
