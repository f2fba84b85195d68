#include "worker/evaluate/evaluate.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/evaluate/run_progress.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd {
namespace {

// A variant and what comes out of its last block for every window.
struct Variant {
  std::unique_ptr<WatchedWeights> weights;
  std::unique_ptr<ReferenceModel> model;
  HiddenStates hidden;
};

absl::Status CheckVariants(const ArchitectureSpec& full,
                           const std::vector<const WeightProvider*>& variants) {
  for (size_t v = 0; v < variants.size(); ++v) {
    const ArchitectureSpec& s = variants[v]->spec();
    if (s.vocab != full.vocab) {
      return absl::InvalidArgumentError(absl::StrCat("evaluation: variant ", v,
                                                     " has a vocabulary of ", s.vocab,
                                                     ", the full model of ", full.vocab));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunWatched(ReferenceModel* model, int64_t begin, int64_t end, HiddenStates* hidden,
                        RunProgress* progress) {
  // In pieces, so that progress is seen.
  const int64_t stride = std::max<int64_t>(1, model->spec().blocks / 8);
  for (int64_t block = begin; block < end; block += stride) {
    const int64_t next = std::min(end, block + stride);
    SA_RETURN_IF_ERROR(progress->Check());
    SA_RETURN_IF_ERROR(model->RunBlocks(block, next, hidden, progress->control()));
    progress->Done(next - block);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SequenceScores>> ScoreAll(
    ReferenceModel* full, const HiddenStates& hidden,
    const std::vector<ReferenceModel::Scored>& variants, const std::vector<int32_t>& tokens,
    int threads, RunProgress* progress) {
  std::vector<SequenceScores> scores(hidden.count);
  SA_RETURN_IF_ERROR(ParallelFor(hidden.count, threads, [&](int64_t window) -> absl::Status {
    SA_ASSIGN_OR_RETURN(scores[window],
                        full->ScoreSequence(hidden, window, tokens.data() + window * hidden.length,
                                            variants, progress->control()));
    progress->Done(1);
    return absl::OkStatus();
  }));
  return scores;
}

absl::StatusOr<std::vector<WindowScores>> ScoreWindows(
    ReferenceModel* full, const std::vector<const WeightProvider*>& variants,
    const std::vector<int32_t>& tokens, int64_t count, int64_t length,
    const VariantOptions& options, TaskControl* control) {
  if (length < 2)
    return absl::InvalidArgumentError(absl::StrCat("evaluation: windows of ", length, " tokens"));
  SA_RETURN_IF_ERROR(CheckVariants(full->spec(), variants));
  const auto models = static_cast<int64_t>(variants.size()) + 1;
  RunProgress progress(control, full->spec().blocks * models + count);
  SA_ASSIGN_OR_RETURN(HiddenStates hidden, full->Embed(tokens, count, length));
  SA_RETURN_IF_ERROR(RunWatched(full, 0, full->spec().blocks, &hidden, &progress));

  std::vector<Variant> quantized;
  for (const WeightProvider* weights : variants) {
    Variant& variant = quantized.emplace_back();
    variant.weights = std::make_unique<WatchedWeights>(*weights, &progress);
    SA_ASSIGN_OR_RETURN(variant.model,
                        ReferenceModel::Create(variant.weights.get(), options.threads,
                                               options.resident_blocks, options.device));
    SA_ASSIGN_OR_RETURN(variant.hidden, variant.model->Embed(tokens, count, length));
    SA_RETURN_IF_ERROR(
        RunWatched(variant.model.get(), 0, weights->spec().blocks, &variant.hidden, &progress));
    variant.model->DropBlocks();
  }
  std::vector<ReferenceModel::Scored> scored;
  for (const Variant& variant : quantized) scored.push_back({variant.model.get(), &variant.hidden});
  SA_ASSIGN_OR_RETURN(std::vector<SequenceScores> scores,
                      ScoreAll(full, hidden, scored, tokens, options.threads, &progress));
  std::vector<WindowScores> out;
  for (SequenceScores& window : scores) out.push_back({std::move(window), length - 1});
  return out;
}

}  // namespace shiftadd
