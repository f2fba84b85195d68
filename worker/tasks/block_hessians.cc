#include "worker/tasks/block_hessians.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

using Clock = std::chrono::steady_clock;

// What became of a layer's Hessian.
struct Outcome {
  absl::Status status;  // of one that is not finite
  bool zero = false;    // no token that counts is anything but zeros
};

// One sum: of one input for the layers that share it, or of one chunk of a layer's rows.
struct Sum {
  BlockInput input = BlockInput::kAttn;
  QuantHessian kind = QuantHessian::kPlain;
  std::vector<size_t> layers;  // one, if guided
  int64_t chunk = 0;
  std::unique_ptr<HessianAccumulator> accumulator;
  std::unique_ptr<InputSum> on_device;  // instead, where the model sums
};

absl::Status CheckWeights(const BlockHessiansOptions& options,
                          const std::vector<LinearLayer>& layers,
                          const std::vector<HiddenStates>& parts) {
  if (options.weights.size() != parts.size()) {
    return absl::InvalidArgumentError(absl::StrCat("block ", options.block, ": token weights of ",
                                                   options.weights.size(), " parts, expected ",
                                                   parts.size()));
  }
  for (size_t p = 0; p < parts.size(); ++p) {
    const TokenWeights& w = options.weights[p];
    for (const LinearLayer& layer : layers) {
      if (w.count == parts[p].count && w.length == parts[p].length && w.chunks == options.chunks &&
          w.layers.count(layer.kind) > 0)
        continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "token weights of block ", options.block, ", part ", p, ": found ", w.layers.size(),
          " layers [", w.count, ", ", w.length, ", ", w.chunks, "], expected one for ", layer.kind,
          " and [", parts[p].count, ", ", parts[p].length, ", ", options.chunks, "]"));
    }
  }
  return absl::OkStatus();
}

class Accumulation {
 public:
  Accumulation(const BlockHessiansOptions& options, const std::vector<LinearLayer>& layers,
               const std::vector<LayerHessians>& plans, ReferenceModel* model)
      : options_(options), layers_(layers), model_(*model) {
    for (size_t i = 0; i < layers.size(); ++i) {
      if (options.wanted[i]) AddLayer(i, plans[i].kind);
    }
  }

  // Runs the block; the activations behind it are held afterwards.
  absl::Status Run(JobSession* session, TaskControl* control) {
    session->SetHeldBlock(-1);
    const Clock::time_point start = Clock::now();
    int64_t first = 0;
    for (size_t part = 0; part < session->held().size(); ++part) {
      HiddenStates& hidden = session->held()[part];
      SA_RETURN_IF_ERROR(
          Annotate(RunPart(part, first, &hidden, control), absl::StrCat("block ", options_.block)));
      first += hidden.count;
      tokens_ += hidden.count * hidden.length;
      ++control->progress_count;
    }
    session->SetHeldBlock(options_.block + 1);
    // The visitor's time is that of all threads together.
    const double wall = std::chrono::duration<double>(Clock::now() - start).count();
    const double summing = std::min(wall, visit_seconds_ / session->threads());
    session->metrics().hessian.Add(summing);
    session->metrics().forward.Add(wall - summing);
    return absl::OkStatus();
  }

  // Fills the chunks of the layers whose sums are finite. By layer.
  std::vector<Outcome> Finish(std::vector<LayerHessians>* plans, TaskControl* control) {
    std::vector<Outcome> outcomes(layers_.size());
    for (LayerHessians& plan : *plans) {
      plan.chunks.clear();
      plan.sums.clear();
      plan.tokens = tokens_;
    }
    for (Sum& sum : sums_) {
      if (options_.on_device && sum.on_device != nullptr) {
        LeaveOnDevice(&sum, plans, &outcomes);
        ++control->progress_count;
        continue;
      }
      auto hessian = FinishSum(&sum);
      ++control->progress_count;
      for (const size_t layer : sum.layers) outcomes[layer].status.Update(hessian.status());
      if (!hessian.ok()) continue;
      const auto shared = std::make_shared<const HessianMatrix>(*std::move(hessian));
      const bool zero = IsZero(*shared);
      for (const size_t layer : sum.layers) {
        (*plans)[layer].chunks.push_back(shared);
        outcomes[layer].zero = zero;
      }
    }
    return outcomes;
  }

 private:
  absl::Status RunPart(size_t part, int64_t first, HiddenStates* hidden, TaskControl* control) {
    if (std::any_of(sums_.begin(), sums_.end(),
                    [](const Sum& sum) { return sum.on_device != nullptr; }))
      return model_.RunBlockSumming(options_.block, hidden, DeviceSums(part), control);
    const InputVisitor visitor = [&](BlockInput input, int64_t sequence, const float* x,
                                     int64_t tokens,
                                     int64_t) { Visit(input, part, sequence, first, x, tokens); };
    return model_.RunBlock(options_.block, hidden, &visitor, control);
  }

  std::vector<InputToSum> DeviceSums(size_t part) const {
    std::vector<InputToSum> out;
    for (const Sum& sum : sums_) {
      InputToSum& to = out.emplace_back();
      to.input = sum.input;
      to.sum = sum.on_device.get();
      to.scale = sum.kind == QuantHessian::kGuided ? TokenScale::kGiven
                 : sum.kind == QuantHessian::kRms  ? TokenScale::kUnitRms
                                                   : TokenScale::kOne;
      if (sum.kind != QuantHessian::kGuided) continue;
      const std::vector<float>& all = options_.weights[part].layers.at(layers_[sum.layers[0]].kind);
      for (size_t i = static_cast<size_t>(sum.chunk); i < all.size(); i += options_.chunks)
        to.weights.push_back(all[i]);
    }
    return out;
  }

  void LeaveOnDevice(Sum* sum, std::vector<LayerHessians>* plans,
                     std::vector<Outcome>* outcomes) const {
    const std::shared_ptr<InputSum> shared = std::move(sum->on_device);
    const absl::StatusOr<bool> finite = shared->Finite(), zero = shared->Zero();
    for (const size_t layer : sum->layers) {
      Outcome& outcome = (*outcomes)[layer];
      outcome.status.Update(finite.status());
      outcome.status.Update(zero.status());
      if (!finite.ok() || !zero.ok()) continue;
      outcome.zero = *zero;
      if (*finite) {
        (*plans)[layer].sums.push_back(shared);
      } else {
        outcome.status.Update(absl::InvalidArgumentError(
            "Hessian: inputs are so large that their product is not finite"));
      }
    }
  }

  absl::StatusOr<HessianMatrix> FinishSum(Sum* sum) const {
    if (sum->on_device == nullptr) {
      const auto accumulator = std::move(sum->accumulator);
      return accumulator->Finish();
    }
    const auto device_sum = std::move(sum->on_device);
    HessianSum out{layers_[sum->layers[0]].cols, tokens_, {}};
    SA_ASSIGN_OR_RETURN(out.sum, device_sum->Take());
    return FinishHessian(out);
  }

  void AddLayer(size_t index, QuantHessian kind) {
    const LinearLayer& layer = layers_[index];
    if (kind != QuantHessian::kGuided) {
      for (Sum& sum : sums_) {
        if (sum.input == layer.input && sum.kind == kind) return sum.layers.push_back(index);
      }
    }
    for (int64_t c = 0; c < (kind == QuantHessian::kGuided ? options_.chunks : 1); ++c) {
      Sum& sum = sums_.emplace_back(Sum{layer.input, kind, {index}, c, nullptr, nullptr});
      sum.on_device = model_.NewInputSum(layer.cols);
      if (sum.on_device == nullptr) sum.accumulator = HessianAccumulator::Create(layer.cols, kind);
    }
  }

  void Visit(BlockInput input, size_t part, int64_t sequence, int64_t first, const float* x,
             int64_t tokens) {
    const Clock::time_point start = Clock::now();
    for (Sum& sum : sums_) {
      if (sum.input != input) continue;
      std::vector<float> weights;
      if (sum.kind == QuantHessian::kGuided) {
        const std::vector<float>& all =
            options_.weights[part].layers.at(layers_[sum.layers[0]].kind);
        for (int64_t t = 0; t < tokens; ++t)
          weights.push_back(all[(sequence * tokens + t) * options_.chunks + sum.chunk]);
      }
      sum.accumulator->Add(first + sequence, x, tokens, weights.empty() ? nullptr : weights.data());
    }
    visit_seconds_.fetch_add(std::chrono::duration<double>(Clock::now() - start).count());
  }

  const BlockHessiansOptions& options_;
  const std::vector<LinearLayer>& layers_;
  ReferenceModel& model_;
  std::vector<Sum> sums_;
  int64_t tokens_ = 0;
  std::atomic<double> visit_seconds_{0};
};

// After a Hessian that is not finite, or of unit-RMS tokens none of which has a weight: the next
// simpler kind, or the error.
absl::Status Simplify(const LinearLayer& layer, const absl::Status& fault, LayerHessians* plan) {
  switch (plan->kind) {
    case QuantHessian::kGuided:
      plan->kind = QuantHessian::kRms;
      plan->note = "guided Hessian not finite: unit-RMS tokens";
      return absl::OkStatus();
    case QuantHessian::kRms:
      plan->kind = QuantHessian::kPlain;
      absl::StrAppend(&plan->note, plan->note.empty() ? "unit-RMS tokens" : "",
                      " zero or not finite: plain Hessian");
      return absl::OkStatus();
    case QuantHessian::kPlain:
      break;
  }
  return Annotate(fault, layer.name);
}

}  // namespace

std::string TokenWeightsFault(const std::vector<TokenWeights>& parts, const std::string& kind,
                              int64_t chunks) {
  std::vector<bool> positive(chunks, false);
  for (const TokenWeights& part : parts) {
    const std::vector<float>& s = part.layers.at(kind);
    for (size_t i = 0; i < s.size(); ++i) {
      if (!std::isfinite(s[i])) return "gradients not finite: unit-RMS tokens";
      if (s[i] > 0) positive[i % chunks] = true;
    }
  }
  const bool all = std::all_of(positive.begin(), positive.end(), [](bool p) { return p; });
  return all ? "" : "gradients zero: unit-RMS tokens";
}

absl::StatusOr<std::vector<LayerHessians>> BlockHessians(
    const BlockHessiansOptions& options, JobSession* session, ReferenceModel* model,
    TaskControl* control, const std::function<absl::Status()>& rewind) {
  const std::vector<LinearLayer> layers = BlockLayers(session->source().spec(), options.block);
  std::vector<LayerHessians> plans(layers.size());
  const bool guided = options.kind == QuantHessian::kGuided;
  if (guided) SA_RETURN_IF_ERROR(CheckWeights(options, layers, session->held()));
  for (size_t i = 0; i < layers.size(); ++i) {
    plans[i].kind = options.kind;
    if (!guided) continue;
    plans[i].note = TokenWeightsFault(options.weights, layers[i].kind, options.chunks);
    if (!plans[i].note.empty()) plans[i].kind = QuantHessian::kRms;
  }
  std::vector<std::string> before_plain(layers.size());  // the note
  std::vector<bool> tried(layers.size(), false);
  while (true) {
    Accumulation sums(options, layers, plans, model);
    SA_RETURN_IF_ERROR(sums.Run(session, control));
    PhaseTimer timer(session->metrics().hessian);
    const std::vector<Outcome> outcomes = sums.Finish(&plans, control);
    bool again = false;
    for (size_t i = 0; i < layers.size(); ++i) {
      const bool unit_rms = plans[i].kind == QuantHessian::kRms;
      if (outcomes[i].status.ok() && outcomes[i].zero && tried[i]) {
        // The inputs themselves are zeros: no kind knows more of them.
        plans[i].kind = QuantHessian::kRms;
        plans[i].note = before_plain[i];
      }
      if (outcomes[i].status.ok() && !(outcomes[i].zero && unit_rms && !tried[i])) continue;
      if (unit_rms) {
        tried[i] = true;
        before_plain[i] = plans[i].note;
      }
      SA_RETURN_IF_ERROR(Simplify(layers[i], outcomes[i].status, &plans[i]));
      again = true;
    }
    if (!again) return plans;
    SA_RETURN_IF_ERROR(rewind());
  }
}

}  // namespace shiftadd
