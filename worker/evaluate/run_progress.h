// What the evaluations share: progress, weights that notice a cancellation, scoring every window.
#ifndef SHIFTADD_WORKER_EVALUATE_RUN_PROGRESS_H_
#define SHIFTADD_WORKER_EVALUATE_RUN_PROGRESS_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "services/base/status_macros.h"
#include "worker/model/model_source.h"
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
  void Moved() {
    if (control_ != nullptr) ++control_->progress_count;
  }
  TaskControl* control() { return control_; }

 private:
  TaskControl* control_;
  int64_t units_;
  std::atomic<int64_t> done_{0};
};

// Looks at the TaskControl before every tensor: dequantizing a large block takes seconds.
class WatchedWeights : public WeightProvider {
 public:
  WatchedWeights(const WeightProvider& weights, RunProgress* progress)
      : weights_(weights), progress_(*progress) {}
  const ArchitectureSpec& spec() const override { return weights_.spec(); }
  bool Has(const std::string& name) const override { return weights_.Has(name); }
  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override {
    SA_RETURN_IF_ERROR(progress_.Check());
    progress_.Moved();
    return weights_.Read(name);
  }

 private:
  const WeightProvider& weights_;
  RunProgress& progress_;
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
