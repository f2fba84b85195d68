// MeasureLayers: one layer quantized, the rest of the model as it is.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/evaluate/evaluate.h"
#include "worker/evaluate/run_progress.h"

namespace shiftadd {
namespace {

// A model's weights but for one tensor.
class OneReplaced : public WeightProvider {
 public:
  OneReplaced(const WeightProvider& weights, std::string name, std::vector<float> values)
      : weights_(weights), name_(std::move(name)), values_(std::move(values)) {}
  const ArchitectureSpec& spec() const override { return weights_.spec(); }
  bool Has(const std::string& name) const override { return weights_.Has(name); }
  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override {
    if (name == name_) return values_;
    return weights_.Read(name);
  }

 private:
  const WeightProvider& weights_;
  const std::string name_;
  const std::vector<float> values_;
};

class Measurement {
 public:
  Measurement(ReferenceModel* full, const WeightProvider& weights, int64_t block,
              const std::vector<int32_t>& tokens, const VariantOptions& options,
              RunProgress* progress)
      : full_(*full),
        weights_(weights),
        block_(block),
        tokens_(tokens),
        options_(options),
        progress_(*progress) {}

  // The full model's states before the block and behind the last.
  absl::Status Start(int64_t count, int64_t length) {
    SA_ASSIGN_OR_RETURN(before_, full_.Embed(tokens_, count, length));
    SA_RETURN_IF_ERROR(RunWatched(&full_, 0, block_, &before_, &progress_));
    last_ = before_;
    return RunWatched(&full_, block_, full_.spec().blocks, &last_, &progress_);
  }

  absl::StatusOr<std::vector<double>> Measure(const LayerToMeasure& layer) {
    std::vector<HiddenStates> states;
    for (const CandidateReader& read : layer.candidates) {
      SA_ASSIGN_OR_RETURN(std::vector<float> values, read());
      SA_ASSIGN_OR_RETURN(HiddenStates hidden, Run(layer.layer.name, std::move(values)));
      states.push_back(std::move(hidden));
    }
    std::vector<ReferenceModel::Scored> scored;
    scored.reserve(states.size());
    for (const HiddenStates& hidden : states) scored.push_back({&full_, &hidden});
    SA_ASSIGN_OR_RETURN(const std::vector<SequenceScores> scores,
                        ScoreAll(&full_, last_, scored, tokens_, options_.threads, &progress_));
    std::vector<double> kl(states.size(), 0.0);
    for (const SequenceScores& window : scores) {
      for (size_t c = 0; c < kl.size(); ++c) kl[c] += window.kl[c];
    }
    for (double& sum : kl)
      sum = std::max(0.0, sum / static_cast<double>(last_.count * (last_.length - 1)));
    return kl;
  }

 private:
  absl::StatusOr<HiddenStates> Run(const std::string& layer, std::vector<float> values) {
    const OneReplaced replaced(weights_, layer, std::move(values));
    SA_ASSIGN_OR_RETURN(const auto model,
                        ReferenceModel::Create(&replaced, options_.threads,
                                               /*resident_blocks=*/1, options_.device));
    HiddenStates hidden = before_;
    SA_RETURN_IF_ERROR(model->RunBlock(block_, &hidden, nullptr, progress_.control()));
    progress_.Done(1);
    SA_RETURN_IF_ERROR(RunWatched(&full_, block_ + 1, full_.spec().blocks, &hidden, &progress_));
    return hidden;
  }

  ReferenceModel& full_;
  const WeightProvider& weights_;
  const int64_t block_;
  const std::vector<int32_t>& tokens_;
  const VariantOptions options_;
  RunProgress& progress_;
  HiddenStates before_, last_;
};

}  // namespace

absl::StatusOr<std::vector<std::vector<double>>> MeasureLayers(
    ReferenceModel* full, const WeightProvider& weights, int64_t block,
    const std::vector<LayerToMeasure>& layers, const std::vector<int32_t>& tokens, int64_t count,
    int64_t length, const VariantOptions& options, TaskControl* control) {
  const int64_t blocks = full->spec().blocks;
  if (length < 2 || count < 1 || block < 0 || block >= blocks) {
    return absl::InvalidArgumentError(absl::StrCat("measuring: ", count, " windows of ", length,
                                                   " tokens, block ", block, " of ", blocks));
  }
  int64_t candidates = 0;
  for (const LayerToMeasure& layer : layers) {
    if (layer.layer.block != block) {
      return absl::InvalidArgumentError(
          absl::StrCat("measuring: layer ", layer.layer.name, " is not of block ", block));
    }
    candidates += static_cast<int64_t>(layer.candidates.size());
  }
  RunProgress progress(control, blocks + candidates * (blocks - block) +
                                    count * static_cast<int64_t>(layers.size()));
  Measurement measurement(full, weights, block, tokens, options, &progress);
  SA_RETURN_IF_ERROR(measurement.Start(count, length));
  std::vector<std::vector<double>> out;
  for (const LayerToMeasure& layer : layers) {
    SA_RETURN_IF_ERROR(progress.Check());
    SA_ASSIGN_OR_RETURN(std::vector<double> kl, measurement.Measure(layer));
    out.push_back(std::move(kl));
  }
  return out;
}

}  // namespace shiftadd
