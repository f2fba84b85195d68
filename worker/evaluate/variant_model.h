// A model under evaluation.
#ifndef SHIFTADD_WORKER_EVALUATE_VARIANT_MODEL_H_
#define SHIFTADD_WORKER_EVALUATE_VARIANT_MODEL_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/model/model_source.h"
#include "worker/reference/reference_model.h"

namespace shiftadd {

// How the models of variants are made.
struct VariantOptions {
  int threads = 1;
  int resident_blocks = 1;
  Device device = Device::kCpu;  // the full model's
};

// An executor whose reads of weights look at the TaskControl of the evaluation that runs, before
// every tensor: dequantizing a large block takes seconds.
class VariantModel {
 public:
  // `weights` must outlive it.
  static absl::StatusOr<std::unique_ptr<VariantModel>> Create(const WeightProvider* weights,
                                                              const VariantOptions& options);
  ReferenceModel* model() const { return model_.get(); }
  // `control` is looked at until the next call; it may be null.
  void Watch(TaskControl* control);

 private:
  class WatchedWeights;
  std::shared_ptr<WatchedWeights> weights_;  // outlives model_
  std::unique_ptr<ReferenceModel> model_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_EVALUATE_VARIANT_MODEL_H_
