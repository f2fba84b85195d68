#include "worker/tasks/input_sums.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/tasks/block_hessians.h"

namespace shiftadd {
namespace {

// Products of inputs with larger weights may leave fp32. PROFILING sees that in the sum and takes
// unit-RMS tokens; a part knows the other parts' weights, not their sums.
constexpr float kLargestWeight = 1e20f;

bool Usable(const InputSumsOptions& options, const std::string& kind) {
  if (!TokenWeightsFault(options.weights, kind, options.chunks).empty()) return false;
  for (const TokenWeights& part : options.weights) {
    for (const float s : part.layers.at(kind)) {
      if (s > kLargestWeight) return false;
    }
  }
  return true;
}

// One chunk of rows of one layer, or of all that share the input.
struct Sum {
  size_t of = 0;  // index into the result
  QuantHessian kind = QuantHessian::kPlain;
  std::vector<float> weights;  // kGuided: [count, length]
  std::unique_ptr<HessianAccumulator> accumulator;
  std::unique_ptr<InputSum> on_device;  // instead, where the model sums
};

class Summation {
 public:
  Summation(const InputSumsOptions& options, ReferenceModel* model)
      : options_(options), model_(*model) {
    const bool guided = options.kind == QuantHessian::kGuided;
    const size_t separate = guided ? options.layers.size() : 1;
    for (size_t i = 0; i < separate; ++i) {
      const LinearLayer& layer = options.layers[i];
      QuantHessian kind = options.kind;
      if (guided && !Usable(options, layer.kind)) kind = QuantHessian::kRms;
      results_.push_back({guided ? layer.name : "", {kind, {}}});
      for (int64_t c = 0; c < (kind == QuantHessian::kGuided ? options.chunks : 1); ++c)
        AddSum(i, c, kind, layer);
    }
  }

  absl::Status Run(const HiddenStates& hidden, TaskControl* control) {
    tokens_ = hidden.count * hidden.length;
    if (sums_.front().on_device == nullptr) {
      const InputVisitor visitor = [&](BlockInput, int64_t sequence, const float* x, int64_t tokens,
                                       int64_t) { Visit(sequence, x, tokens); };
      return model_.VisitInput(options_.block, options_.input, hidden, visitor, control);
    }
    std::vector<InputToSum> to;
    for (const Sum& sum : sums_) {
      const TokenScale scale = sum.kind == QuantHessian::kGuided ? TokenScale::kGiven
                               : sum.kind == QuantHessian::kRms  ? TokenScale::kUnitRms
                                                                 : TokenScale::kOne;
      to.push_back({options_.input, scale, sum.weights, sum.on_device.get()});
    }
    HiddenStates copy = hidden;
    return model_.RunBlockSumming(options_.block, &copy, to, control);
  }

  absl::StatusOr<std::vector<LayerSums>> Finish() {
    for (Sum& sum : sums_) {
      SA_ASSIGN_OR_RETURN(HessianSum finished, FinishSum(&sum));
      results_[sum.of].sums.chunks.push_back(std::move(finished));
    }
    return std::move(results_);
  }

 private:
  void AddSum(size_t of, int64_t chunk, QuantHessian kind, const LinearLayer& layer) {
    Sum& sum = sums_.emplace_back();
    sum.of = of;
    sum.kind = kind;
    if (kind == QuantHessian::kGuided) {
      const std::vector<float>& all = options_.weights[options_.part].layers.at(layer.kind);
      for (size_t i = static_cast<size_t>(chunk); i < all.size(); i += options_.chunks)
        sum.weights.push_back(all[i]);
    }
    width_ = layer.cols;
    sum.on_device = model_.NewInputSum(layer.cols);
    if (sum.on_device == nullptr) sum.accumulator = HessianAccumulator::Create(layer.cols, kind);
  }

  void Visit(int64_t sequence, const float* x, int64_t tokens) {
    for (Sum& sum : sums_) {
      const float* weights = sum.weights.empty() ? nullptr : &sum.weights[sequence * tokens];
      sum.accumulator->Add(sequence, x, tokens, weights);
    }
  }

  absl::StatusOr<HessianSum> FinishSum(Sum* sum) const {
    if (sum->on_device == nullptr) {
      const auto accumulator = std::move(sum->accumulator);
      return accumulator->FinishSum();
    }
    const auto on_device = std::move(sum->on_device);
    HessianSum out{width_, tokens_, {}};
    SA_ASSIGN_OR_RETURN(out.sum, on_device->Take());
    return out;
  }

  const InputSumsOptions& options_;
  ReferenceModel& model_;
  std::vector<LayerSums> results_;
  std::vector<Sum> sums_;
  int64_t width_ = 0, tokens_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<LayerSums>> SumInput(const InputSumsOptions& options,
                                                const HiddenStates& hidden, ReferenceModel* model,
                                                TaskControl* control) {
  if (options.layers.empty()) return std::vector<LayerSums>();
  const auto sum = [&](const InputSumsOptions& of) -> absl::StatusOr<std::vector<LayerSums>> {
    Summation summation(of, model);
    SA_RETURN_IF_ERROR(Annotate(summation.Run(hidden, control), absl::StrCat("block ", of.block)));
    return summation.Finish();
  };
  SA_ASSIGN_OR_RETURN(std::vector<LayerSums> sums, sum(options));
  const auto without_weight = [](const LayerSums& of) {
    return of.sums.kind == QuantHessian::kRms && IsZero(of.sums.chunks[0]);
  };
  if (std::none_of(sums.begin(), sums.end(), without_weight)) return sums;
  InputSumsOptions options_of_plain = options;
  options_of_plain.kind = QuantHessian::kPlain;
  options_of_plain.weights.clear();
  SA_ASSIGN_OR_RETURN(const std::vector<LayerSums> plain, sum(options_of_plain));
  if (IsZero(plain[0].sums.chunks[0])) return sums;
  for (LayerSums& of : sums) {
    if (without_weight(of)) of.sums = plain[0].sums;
  }
  return sums;
}

}  // namespace shiftadd
