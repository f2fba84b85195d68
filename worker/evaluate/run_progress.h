// What the evaluations share: progress, running blocks, scoring every window.
#ifndef SHIFTADD_WORKER_EVALUATE_RUN_PROGRESS_H_
#define SHIFTADD_WORKER_EVALUATE_RUN_PROGRESS_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "services/base/status_macros.h"
#include "worker/reference/reference_model.h"

namespace shiftadd {

// Moves a TaskControl's progress: one unit is one block over all windows, or one window scored.
// Thread-safe.
class RunProgress {
 public:
  RunProgress(TaskControl* control, int64_t units) : control_(control), units_(units) {}
  absl::Status Check() const { return control_ == nullptr ? absl::OkStatus() : control_->Check(); }
  void Done(int64_t units) {
    if (control_ == nullptr) return;
    const int64_t done = done_ += units;
    control_->progress = static_cast<double>(done) / static_cast<double>(units_);
  }
  TaskControl* control() { return control_; }

 private:
  TaskControl* control_;
  int64_t units_;
  std::atomic<int64_t> done_{0};
};

// Blocks [begin, end) of `model` over all windows.
absl::Status RunWatched(ReferenceModel* model, int64_t begin, int64_t end, HiddenStates* hidden,
                        RunProgress* progress);

// ScoreSequence of every window.
absl::StatusOr<std::vector<SequenceScores>> ScoreAll(
    ReferenceModel* full, const HiddenStates& hidden,
    const std::vector<ReferenceModel::Scored>& variants, const std::vector<int32_t>& tokens,
    int threads, RunProgress* progress);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_EVALUATE_RUN_PROGRESS_H_
