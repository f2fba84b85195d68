// A clock that tests can replace.
#ifndef SHIFTADD_SERVICES_BASE_CLOCK_H_
#define SHIFTADD_SERVICES_BASE_CLOCK_H_

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace shiftadd {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

class SystemClock : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
};

// Stands still until told otherwise. Not thread-safe against concurrent Advance.
class FakeClock : public Clock {
 public:
  explicit FakeClock(absl::Time start = absl::FromUnixSeconds(1'700'000'000)) : now_(start) {}
  absl::Time Now() const override { return now_; }
  void Advance(absl::Duration d) { now_ += d; }

 private:
  absl::Time now_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_CLOCK_H_
