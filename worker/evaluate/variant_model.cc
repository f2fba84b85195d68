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
    SA_RETURN_IF_ERROR(Look());
    return weights_.Read(name);
  }
  bool HasRows(const std::string& name) const override { return weights_.HasRows(name); }
  absl::Status ReadRows(const std::string& name, int64_t rows, int64_t cols, int64_t begin,
                        int64_t end, float* out) const override {
    SA_RETURN_IF_ERROR(Look());
    return weights_.ReadRows(name, rows, cols, begin, end, out);
  }
  void Watch(TaskControl* control) { control_ = control; }

 private:
  absl::Status Look() const {
    TaskControl* const control = control_;
    if (control == nullptr) return absl::OkStatus();
    ++control->progress_count;
    return control->Check();
  }

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
