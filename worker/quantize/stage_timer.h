// Adds wall time to a stage's sum.
#ifndef SHIFTADD_WORKER_QUANTIZE_STAGE_TIMER_H_
#define SHIFTADD_WORKER_QUANTIZE_STAGE_TIMER_H_

#include <chrono>

namespace shiftadd::quantize {

class StageTimer {
 public:
  // `to` (may be null) gets the seconds until this ends.
  explicit StageTimer(double* to) : to_(to) {}
  ~StageTimer() {
    if (to_ == nullptr) return;
    *to_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  double* const to_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_STAGE_TIMER_H_
