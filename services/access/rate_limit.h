// At most so many requests a second of each caller.
#ifndef SHIFTADD_SERVICES_ACCESS_RATE_LIMIT_H_
#define SHIFTADD_SERVICES_ACCESS_RATE_LIMIT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "absl/time/time.h"

namespace shiftadd::access {

// A bucket a caller: it holds `burst` requests, one at least, and fills at `rate` a second.
// Thread-safe. Names may come from anywhere: a full bucket is as good as none and is not kept.
class RateLimit {
 public:
  RateLimit(double rate, double burst) : rate_(rate), burst_(std::max(burst, 1.0)) {}
  // The rate, and bursts of five seconds' worth.
  explicit RateLimit(double rate) : RateLimit(rate, 5 * rate) {}
  // False: this one is too many.
  bool Take(const std::string& caller, absl::Time now);
  double rate() const { return rate_; }
  // In whole seconds, as Retry-After has it: when a bucket that was empty has room again.
  int64_t RetrySeconds() const;
  size_t buckets() const;  // that are kept

 private:
  struct Bucket {
    double left;
    absl::Time filled;
  };
  // Under mutex_.
  void Fill(absl::Time now, Bucket* bucket) const;
  void DropFull(absl::Time now);

  const double rate_, burst_;
  mutable std::mutex mutex_;
  std::map<std::string, Bucket> buckets_;
  size_t sweep_at_ = 1024;  // buckets; then those that are full are dropped
};

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_RATE_LIMIT_H_
