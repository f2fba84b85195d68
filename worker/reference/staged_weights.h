// Weights read ahead of their use. ATen types: include from .cc files of worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_STAGED_WEIGHTS_H_
#define SHIFTADD_WORKER_REFERENCE_STAGED_WEIGHTS_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/model_source.h"

namespace shiftadd::reference {

// Some tensors of `weights` on the host, in memory that the device reads by itself: as their file
// has them, or dequantized to F32 where that is not plain. Immutable; thread-safe.
class StagedWeights : public WeightProvider {
 public:
  static absl::StatusOr<std::shared_ptr<const StagedWeights>> Read(
      const WeightProvider& weights, const std::vector<std::string>& names, at::Device device);

  const ArchitectureSpec& spec() const override { return weights_.spec(); }
  bool Has(const std::string& name) const override { return weights_.Has(name); }
  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override {
    return weights_.Read(name);
  }
  std::optional<RawTensor> Raw(const std::string& name) const override;

 private:
  explicit StagedWeights(const WeightProvider& weights) : weights_(weights) {}

  const WeightProvider& weights_;
  std::map<std::string, std::pair<DType, at::Tensor>> staged_;  // bytes
};

// The block that follows in the order in which blocks are asked for, read while the one before it
// is at work. Not thread-safe.
class BlockStage {
 public:
  BlockStage(const WeightProvider* weights, at::Device device)
      : weights_(*weights), device_(device) {}

  // `block`'s weights: those staged, or the source's own if it was not to be foreseen.
  std::shared_ptr<const WeightProvider> Take(int64_t block);
  // After Take(block): begins with the next one in the direction of the last two.
  void Next(int64_t block);

 private:
  const WeightProvider& weights_;
  const at::Device device_;
  int64_t last_ = -1, staged_ = -1;
  std::future<absl::StatusOr<std::shared_ptr<const StagedWeights>>> reading_;  // waits when it goes
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_STAGED_WEIGHTS_H_
