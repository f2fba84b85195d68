// When a version of a package that could not be loaded is tried again.
#ifndef SHIFTADD_WORKER_SERVE_LOAD_RETRY_H_
#define SHIFTADD_WORKER_SERVE_LOAD_RETRY_H_

#include <algorithm>
#include <string>

#include "absl/time/time.h"

namespace shiftadd {

// After `first`, then after twice as long each time up to `longest`. Another version is tried at
// once. Not thread-safe.
class LoadRetry {
 public:
  LoadRetry(absl::Duration first, absl::Duration longest)
      : first_(first), longest_(longest), pause_(first) {}

  // When to begin a turn although nothing was heard.
  absl::Time next() const { return next_; }
  // A turn begins. If the time has come, the failed version may be tried in it; whether or not it
  // gets so far, the next one is due a pause later, not at once.
  void Begin(absl::Time now) {
    due_ = now >= next_;
    if (due_) next_ = now + pause_;
  }
  // Whether version `digest` may be tried in this turn.
  bool May(const std::string& digest) const { return digest != failed_ || due_; }
  // It was tried; gives the pause that follows.
  absl::Duration Failed(const std::string& digest, absl::Time now) {
    if (digest != failed_) pause_ = first_;
    failed_ = digest;
    const absl::Duration pause = pause_;
    next_ = now + pause;
    pause_ = std::min(2 * pause_, longest_);
    return pause;
  }
  // The version that is wanted serves.
  void Served() {
    failed_.clear();
    next_ = absl::InfiniteFuture();
  }

 private:
  const absl::Duration first_, longest_;
  absl::Duration pause_;
  std::string failed_;  // empty: none
  absl::Time next_ = absl::InfiniteFuture();
  bool due_ = false;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_LOAD_RETRY_H_
