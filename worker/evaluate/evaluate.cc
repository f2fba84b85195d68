#include "worker/evaluate/evaluate.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/status_macros.h"
#include "worker/evaluate/run_progress.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd {
namespace {

absl::Status CheckVariants(const ArchitectureSpec& full,
                           const std::vector<VariantModel*>& variants) {
  for (size_t v = 0; v < variants.size(); ++v) {
    const ArchitectureSpec& s = variants[v]->model()->spec();
    if (s.vocab != full.vocab) {
      return absl::InvalidArgumentError(absl::StrCat("evaluation: variant ", v,
                                                     " has a vocabulary of ", s.vocab,
                                                     ", the full model of ", full.vocab));
    }
  }
  return absl::OkStatus();
}

// Tells the variants whose evaluation runs.
class Watch {
 public:
  Watch(const std::vector<VariantModel*>& variants, TaskControl* control) : variants_(variants) {
    for (VariantModel* variant : variants_) variant->Watch(control);
  }
  ~Watch() {
    for (VariantModel* variant : variants_) variant->Watch(nullptr);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  const std::vector<VariantModel*>& variants_;
};

}  // namespace

absl::Status RunWatched(ReferenceModel* model, int64_t begin, int64_t end, HiddenStates* hidden,
                        RunProgress* progress) {
  // In pieces, so that progress is seen; at once where sequences then stay on a device.
  const int64_t stride = model->stays_on_device() ? end : std::max<int64_t>(1, end / 8);
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
  SA_RETURN_IF_ERROR(
      ParallelFor(hidden.count, full->ScoringThreads(threads), [&](int64_t window) -> absl::Status {
        SA_ASSIGN_OR_RETURN(
            scores[window],
            full->ScoreSequence(hidden, window, tokens.data() + window * hidden.length, variants,
                                progress->control()));
        progress->Done(1);
        return absl::OkStatus();
      }));
  return scores;
}

absl::StatusOr<std::vector<WindowScores>> ScoreWindows(ReferenceModel* full,
                                                       const std::vector<VariantModel*>& variants,
                                                       const std::vector<int32_t>& tokens,
                                                       int64_t count, int64_t length, int threads,
                                                       TaskControl* control) {
  if (length < 2)
    return absl::InvalidArgumentError(absl::StrCat("evaluation: windows of ", length, " tokens"));
  SA_RETURN_IF_ERROR(CheckVariants(full->spec(), variants));
  const Watch watch(variants, control);
  std::vector<ReferenceModel*> models = {full};
  models.reserve(variants.size() + 1);
  for (const VariantModel* variant : variants) models.push_back(variant->model());
  int64_t blocks = 0;
  for (const ReferenceModel* model : models) blocks += model->spec().blocks;
  RunProgress progress(control, blocks + count);
  std::vector<HiddenStates> hidden;
  for (ReferenceModel* model : models) {
    const absl::Time begin = absl::Now();
    SA_ASSIGN_OR_RETURN(HiddenStates states, model->Embed(tokens, count, length));
    const absl::Time embedded = absl::Now();
    SA_RETURN_IF_ERROR(RunWatched(model, 0, model->spec().blocks, &states, &progress));
    spdlog::info("evaluation: {} of {} models over {} windows in {:.1f} s, embedding {:.1f}",
                 hidden.size() + 1, models.size(), count,
                 absl::ToDoubleSeconds(absl::Now() - begin),
                 absl::ToDoubleSeconds(embedded - begin));
    hidden.push_back(std::move(states));
    if (!model->keeps_blocks()) model->DropBlocks();
  }
  std::vector<ReferenceModel::Scored> scored;
  for (size_t v = 0; v < variants.size(); ++v) scored.push_back({models[v + 1], &hidden[v + 1]});
  SA_ASSIGN_OR_RETURN(std::vector<SequenceScores> scores,
                      ScoreAll(full, hidden[0], scored, tokens, threads, &progress));
  std::vector<WindowScores> out;
  out.reserve(scores.size());
  for (SequenceScores& window : scores) out.push_back({std::move(window), length - 1});
  return out;
}

}  // namespace shiftadd
