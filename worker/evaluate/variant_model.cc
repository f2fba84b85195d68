#include "worker/evaluate/variant_model.h"

#include <atomic>
#include <string>
#include <vector>

#include "services/base/status_macros.h"

namespace shiftadd {

class VariantModel::WatchedWeights : public WeightProvider {
 public:
  explicit WatchedWeights(const WeightProvider& weights) : weights_(weights) {}
  const ArchitectureSpec& spec() const override { return weights_.spec(); }
  bool Has(const std::string& name) const override { return weights_.Has(name); }
  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override {
    if (TaskControl* const control = control_) {
      SA_RETURN_IF_ERROR(control->Check());
      ++control->progress_count;
    }
    return weights_.Read(name);
  }
  void Watch(TaskControl* control) { control_ = control; }

 private:
  const WeightProvider& weights_;
  std::atomic<TaskControl*> control_{nullptr};
};

absl::StatusOr<std::unique_ptr<VariantModel>> VariantModel::Create(const WeightProvider* weights,
                                                                   const VariantOptions& options) {
  auto variant = std::make_unique<VariantModel>();
  variant->weights_ = std::make_shared<WatchedWeights>(*weights);
  SA_ASSIGN_OR_RETURN(variant->model_,
                      ReferenceModel::Create(variant->weights_.get(), options.threads,
                                             options.resident_blocks, options.device));
  return variant;
}

void VariantModel::Watch(TaskControl* control) { weights_->Watch(control); }

}  // namespace shiftadd
