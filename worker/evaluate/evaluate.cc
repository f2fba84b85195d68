#include "worker/evaluate/evaluate.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/evaluate/divergence.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd {
namespace {

// Blocks are run once each over all windows: keeping more than one would buy nothing.
constexpr int kResidentBlocks = 1;

// Moves a TaskControl's progress: one unit is one block over all windows, or one window scored.
class Progress {
 public:
  Progress(TaskControl* control, int64_t units) : control_(control), units_(units) {}
  absl::Status Check() const { return control_ == nullptr ? absl::OkStatus() : control_->Check(); }
  void Unit() {
    if (control_ == nullptr) return;
    const int64_t done = ++done_;
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
  WatchedWeights(const WeightProvider& weights, Progress* progress)
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
  Progress& progress_;
};

// A model and what comes out of its last block for every window.
struct Scored {
  std::unique_ptr<WatchedWeights> weights;
  std::unique_ptr<ReferenceModel> model;
  HiddenStates hidden;
};

class Evaluation {
 public:
  Evaluation(const std::vector<int32_t>& tokens, int64_t count, int64_t length, int threads,
             Progress* progress)
      : tokens_(tokens), count_(count), length_(length), threads_(threads), progress_(*progress) {}

  absl::StatusOr<Scored> RunBlocks(const WeightProvider& weights) const {
    Scored out;
    out.weights = std::make_unique<WatchedWeights>(weights, &progress_);
    SA_ASSIGN_OR_RETURN(out.model,
                        ReferenceModel::Create(out.weights.get(), threads_, kResidentBlocks));
    SA_ASSIGN_OR_RETURN(out.hidden, out.model->Embed(tokens_, count_, length_));
    for (int64_t block = 0; block < weights.spec().blocks; ++block) {
      SA_RETURN_IF_ERROR(progress_.Check());
      SA_RETURN_IF_ERROR(out.model->RunBlock(block, &out.hidden, nullptr, progress_.control()));
      progress_.Unit();
    }
    return out;
  }

  // Adds `full`'s own loss and, if `variant` is given, the variant's loss and divergence, window by
  // window.
  absl::Status Score(const Scored& full, const Scored* variant,
                     std::vector<WindowScores>* scores) const {
    return ParallelFor(count_, threads_, [&](int64_t window) -> absl::Status {
      SA_RETURN_IF_ERROR(ScoreWindow(full, variant, window, &(*scores)[window]));
      progress_.Unit();
      return absl::OkStatus();
    });
  }

 private:
  absl::Status ScoreWindow(const Scored& full, const Scored* variant, int64_t window,
                           WindowScores* out) const {
    double nll_full = 0, nll = 0, kl = 0;
    std::vector<float> p, q;
    const int64_t vocab = vocab_of(full);
    for (int64_t chunk = 0; chunk * ReferenceModel::kLogitsChunk < length_; ++chunk) {
      SA_RETURN_IF_ERROR(progress_.Check());
      SA_RETURN_IF_ERROR(full.model->LogitsChunk(full.hidden, window, chunk, &p));
      if (variant != nullptr) {
        SA_RETURN_IF_ERROR(progress_.Check());
        SA_RETURN_IF_ERROR(variant->model->LogitsChunk(variant->hidden, window, chunk, &q));
      }
      const int64_t begin = chunk * ReferenceModel::kLogitsChunk;
      // The last token has nothing to predict.
      const int64_t rows = std::min(ReferenceModel::kLogitsChunk, length_ - 1 - begin);
      for (int64_t row = 0; row < rows; ++row) {
        SA_RETURN_IF_ERROR(progress_.Check());
        const int32_t label = tokens_[window * length_ + begin + row + 1];
        const float* q_row = variant == nullptr ? nullptr : q.data() + row * vocab;
        const TokenScores token = ScoreToken(p.data() + row * vocab, q_row, vocab, label);
        if (!std::isfinite(token.nll_full) || !std::isfinite(token.nll) ||
            !std::isfinite(token.kl)) {
          return absl::InvalidArgumentError(absl::StrCat("evaluation: window ", window, ", token ",
                                                         begin + row,
                                                         ": the logits are not finite"));
        }
        nll_full += token.nll_full;
        nll += token.nll;
        kl += token.kl;
      }
      progress_.Moved();
    }
    out->nll_full = nll_full;
    if (variant != nullptr) {
      out->nll.push_back(nll);
      out->kl.push_back(kl);
    }
    return absl::OkStatus();
  }

  static int64_t vocab_of(const Scored& scored) { return scored.model->spec().vocab; }

  const std::vector<int32_t>& tokens_;
  const int64_t count_, length_;
  const int threads_;
  Progress& progress_;
};

absl::Status CheckVariants(const WeightProvider& full,
                           const std::vector<const WeightProvider*>& variants) {
  for (size_t v = 0; v < variants.size(); ++v) {
    const ArchitectureSpec& s = variants[v]->spec();
    if (s.vocab != full.spec().vocab) {
      return absl::InvalidArgumentError(absl::StrCat("evaluation: variant ", v,
                                                     " has a vocabulary of ", s.vocab,
                                                     ", the full model of ", full.spec().vocab));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<WindowScores>> ScoreWindows(
    const WeightProvider& full, const std::vector<const WeightProvider*>& variants,
    const std::vector<int32_t>& tokens, int64_t count, int64_t length, int threads,
    TaskControl* control) {
  if (length < 2)
    return absl::InvalidArgumentError(absl::StrCat("evaluation: windows of ", length, " tokens"));
  SA_RETURN_IF_ERROR(CheckVariants(full, variants));
  const int64_t passes = std::max<int64_t>(1, static_cast<int64_t>(variants.size()));
  Progress progress(
      control, full.spec().blocks * (1 + static_cast<int64_t>(variants.size())) + passes * count);
  const Evaluation evaluation(tokens, count, length, threads, &progress);
  SA_ASSIGN_OR_RETURN(Scored reference, evaluation.RunBlocks(full));
  reference.model->DropBlocks();

  std::vector<WindowScores> scores(count);
  for (WindowScores& s : scores) s.tokens = length - 1;
  if (variants.empty()) SA_RETURN_IF_ERROR(evaluation.Score(reference, nullptr, &scores));
  for (const WeightProvider* variant : variants) {
    SA_ASSIGN_OR_RETURN(Scored quantized, evaluation.RunBlocks(*variant));
    quantized.model->DropBlocks();
    SA_RETURN_IF_ERROR(evaluation.Score(reference, &quantized, &scores));
  }
  return scores;
}

}  // namespace shiftadd
