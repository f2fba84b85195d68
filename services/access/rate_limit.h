// At most so many requests a second of each caller.
#ifndef SHIFTADD_SERVICES_ACCESS_RATE_LIMIT_H_
#define SHIFTADD_SERVICES_ACCESS_RATE_LIMIT_H_

#include <map>
#include <mutex>
#include <string>

#include "absl/time/time.h"

namespace shiftadd::access {

// A bucket a caller: it holds `burst` requests and fills at `rate` a second. Thread-safe. Callers
// are those that were identified, so there are as many buckets as names.
class RateLimit {
 public:
  RateLimit(double rate, double burst) : rate_(rate), burst_(burst) {}
  // False: this one is too many.
  bool Take(const std::string& caller, absl::Time now);

 private:
  struct Bucket {
    double left;
    absl::Time filled;
  };
  const double rate_, burst_;
  std::mutex mutex_;
  std::map<std::string, Bucket> buckets_;
};

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_RATE_LIMIT_H_
