// EVALUATING: from window scores to the quality, and which variant is published.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/coordinator/planner_internal.h"

namespace shiftadd::coordinator::internal {
namespace {

// Scores of one variant over all windows, summed in order of parts and windows.
struct Score {
  double kl = 0;  // mean over tokens
  double kl_standard_error = 0;
  double perplexity = 0;
};

struct Windows {
  std::vector<v1::WindowScore> list;
  double tokens = 0;
  double nll_full = 0;
};

Windows Collect(const JobView& view) {
  Windows w;
  for (const ViewedTask* t : view.OfKind(v1::TASK_KIND_EVALUATE)) {
    for (const v1::WindowScore& score : t->result.evaluate().windows()) {
      w.list.push_back(score);
      w.tokens += score.tokens();
      w.nll_full += score.nll_full();
    }
  }
  return w;
}

Score ScoreOf(const Windows& windows, int variant) {
  double kl = 0, nll = 0;
  for (const v1::WindowScore& w : windows.list) {
    kl += w.kl(variant);
    nll += w.nll(variant);
  }
  Score score;
  score.kl = kl / windows.tokens;
  score.perplexity = std::exp(nll / windows.tokens);
  const auto n = static_cast<double>(windows.list.size());
  if (n < 2) return score;
  double mean = 0, squares = 0;
  for (const v1::WindowScore& w : windows.list) mean += w.kl(variant) / w.tokens();
  mean /= n;
  for (const v1::WindowScore& w : windows.list) {
    const double d = w.kl(variant) / w.tokens() - mean;
    squares += d * d;
  }
  score.kl_standard_error = std::sqrt(squares / (n - 1) / n);
  return score;
}

absl::Status CheckWindows(const Windows& windows, size_t variants) {
  if (windows.list.empty()) return absl::InternalError("evaluation: no window was scored");
  for (const v1::WindowScore& w : windows.list) {
    if (w.tokens() == 0 || static_cast<size_t>(w.kl_size()) != variants ||
        static_cast<size_t>(w.nll_size()) != variants) {
      return absl::InternalError(absl::StrCat("evaluation: a window has ", w.tokens(),
                                              " tokens and scores of ", w.kl_size(), " of ",
                                              variants, " variants"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

MaybeUpdate PlanEvaluating(const JobView& view) {
  if (!view.AllDone()) return std::nullopt;
  const std::vector<v1::Variant> variants = view.Variants();
  const Windows windows = Collect(view);
  if (absl::Status status = CheckWindows(windows, variants.size()); !status.ok()) return status;
  JobUpdate update = StartUpdate(view);
  v1::Quality* q = update.job.mutable_quality();
  const Score mixed = ScoreOf(windows, 0);
  const Score uniform = variants.size() > 1 ? ScoreOf(windows, 1) : mixed;
  if (q->uniform_bits() > 0) {
    q->set_kl_uniform(uniform.kl);
    q->set_perplexity_uniform(uniform.perplexity);
  }
  // Written so that a NaN loses. A single variant keeps what the allocation said of it.
  if (variants.size() > 1) {
    q->set_published_mixed(!(uniform.kl < mixed.kl || std::isnan(mixed.kl)));
  }
  const bool publish_uniform = variants.size() > 1 && !q->published_mixed();
  const Score& best = publish_uniform ? uniform : mixed;
  if (!std::isfinite(best.kl) || !std::isfinite(best.perplexity)) {
    return absl::InternalError(absl::StrCat("evaluation: KL ", best.kl, ", perplexity ",
                                            best.perplexity,
                                            ": expected finite numbers; the quantized model is "
                                            "not usable, try wider candidates"));
  }
  q->set_kl(best.kl);
  q->set_kl_standard_error(best.kl_standard_error);
  q->set_perplexity_quantized(best.perplexity);
  q->set_perplexity_full(std::exp(windows.nll_full / windows.tokens));
  q->set_windows(static_cast<uint32_t>(windows.list.size()));
  q->set_window_length(view.job().spec().evaluation().length());
  for (const ViewedTask* t : view.OfKind(v1::TASK_KIND_EVALUATE)) {
    if (!t->task.evaluate().check_server()) continue;
    q->set_server_max_logit_error(t->result.evaluate().server_max_logit_error());
  }
  const Averages averages = AveragesOf(variants[publish_uniform ? 1 : 0], view.Reports());
  q->set_planes(averages.planes);
  q->set_stored_bits(averages.stored_bits);
  v1::JobEvent event;
  *event.mutable_evaluation() = *q;
  update.events.push_back(event);
  update.job.set_state(v1::JOB_STATE_PACKAGING);
  return update;
}

}  // namespace shiftadd::coordinator::internal
