// Times of calls, and their quantiles.
#ifndef SHIFTADD_TESTS_SCALE_LATENCIES_H_
#define SHIFTADD_TESTS_SCALE_LATENCIES_H_

#include <algorithm>
#include <mutex>
#include <vector>

#include "absl/time/time.h"

namespace shiftadd::testing {

// Thread-safe.
class Latencies {
 public:
  void Add(absl::Duration time) {
    const std::lock_guard<std::mutex> lock(mutex_);
    seconds_.push_back(absl::ToDoubleSeconds(time));
  }
  // By nearest rank, in milliseconds; 0 without any.
  double Quantile(double q) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (seconds_.empty()) return 0;
    std::vector<double> sorted = seconds_;
    const auto at = std::min(sorted.size() - 1, static_cast<size_t>(q * sorted.size()));
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(at),
                     sorted.end());
    return 1000 * sorted[at];
  }
  size_t count() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return seconds_.size();
  }
  void Clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    seconds_.clear();
  }

 private:
  mutable std::mutex mutex_;
  std::vector<double> seconds_;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_SCALE_LATENCIES_H_
