// EVALUATING: from window scores to the quality, which variant is published, and whether it is
// refined first.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/base/status_macros.h"
#include "services/coordinator/evaluation_figures.h"
#include "services/coordinator/package_config.h"
#include "services/coordinator/planner_internal.h"
#include "services/coordinator/refine_plan.h"

namespace shiftadd::coordinator::internal {
namespace {

using Windows = std::vector<v1::WindowScore>;

// Of one variant.
struct Score {
  v1::Estimate kl, perplexity;
};

// In order of parts and windows.
Windows Collect(const JobView& view) {
  Windows windows;
  for (const ViewedTask* t : view.Evaluation()) {
    const auto& scores = t->result.evaluate().windows();
    windows.insert(windows.end(), scores.begin(), scores.end());
  }
  return windows;
}

Score ScoreOf(const Windows& windows, int variant) {
  return {MeanOver(windows, [variant](const v1::WindowScore& w) { return w.kl(variant); }),
          PerplexityOver(windows, [variant](const v1::WindowScore& w) { return w.nll(variant); })};
}

absl::Status CheckWindows(const Windows& windows, size_t variants) {
  if (windows.empty()) return absl::InternalError("evaluation: no window was scored");
  for (const v1::WindowScore& w : windows) {
    if (w.tokens() == 0 || static_cast<size_t>(w.kl_size()) != variants ||
        static_cast<size_t>(w.nll_size()) != variants) {
      return absl::InternalError(absl::StrCat("evaluation: a window has ", w.tokens(),
                                              " tokens and scores of ", w.kl_size(), " of ",
                                              variants, " variants"));
    }
  }
  return absl::OkStatus();
}

// What refining changed, for the log and the report.
void CompareWithUnrefined(JobUpdate* update, const v1::Quality& before) {
  v1::Quality* q = update->job.mutable_quality();
  q->set_kl_unrefined(before.kl());
  q->set_kl_unrefined_standard_error(before.kl_standard_error());
  q->set_perplexity_unrefined(before.perplexity_quantized());
  q->set_perplexity_unrefined_standard_error(before.perplexity_quantized_standard_error());
  AddLog(update,
         absl::StrFormat("refined: KL %.4f (before %.4f), perplexity %.2f (before %.2f)", q->kl(),
                         before.kl(), q->perplexity_quantized(), before.perplexity_quantized()));
}

}  // namespace

absl::Status AddEvaluateTasks(const JobView& view, const std::vector<v1::Variant>& variants,
                              uint32_t round, int workers, JobUpdate* update) {
  v1::Task task = StartTask(view.job(), v1::TASK_KIND_EVALUATE);
  v1::EvaluateTask* t = task.mutable_evaluate();
  *t->mutable_variants() = {variants.begin(), variants.end()};
  t->set_head_digest(view.Ends().head_digest());
  t->set_unquantized_digest(view.Ends().unquantized_digest());
  SA_ASSIGN_OR_RETURN(*t->mutable_package_config_json(),
                      ComposeConfig(view, variants.front(), nullptr));
  t->set_round(round);
  const std::vector<std::string> tokens = view.TokenDigests(true);
  const uint32_t held_out = view.job().spec().evaluation().sequences();
  const auto shares = static_cast<uint32_t>(std::max(1, workers));
  const uint32_t share = std::clamp((held_out + shares - 1) / shares, 1u, kMicrobatch);
  auto ordinal = static_cast<uint32_t>(view.OfKind(v1::TASK_KIND_EVALUATE).size());
  for (uint32_t part = 0; part < tokens.size(); ++part) {
    const uint32_t windows = std::min(kMicrobatch, held_out - part * kMicrobatch);
    for (uint32_t first = 0; first < windows; first += share) {
      t->set_tokens_digest(tokens[part]);
      t->set_part(part);
      t->set_first_window(first);
      t->set_windows(std::min(share, windows - first));
      t->set_check_server(part == 0 && first == 0);
      AddTask(update, task, ordinal++);
    }
  }
  return absl::OkStatus();
}

MaybeUpdate PlanEvaluating(const JobView& view) {
  if (!view.AllDone()) return std::nullopt;
  const std::vector<v1::Variant> variants = view.Variants();
  const Windows windows = Collect(view);
  if (absl::Status status = CheckWindows(windows, variants.size()); !status.ok()) return status;
  JobUpdate update = StartUpdate(view);
  v1::Quality* q = update.job.mutable_quality();
  const bool refined = !view.OfKind(v1::TASK_KIND_REFINE).empty();
  const v1::Quality before = *q;
  const Score mixed = ScoreOf(windows, 0);
  const Score uniform = variants.size() > 1 ? ScoreOf(windows, 1) : mixed;
  if (q->uniform_bits() > 0 && !refined) {  // the uniform variant itself was not refined
    q->set_kl_uniform(uniform.kl.value());
    q->set_kl_uniform_standard_error(uniform.kl.standard_error());
    q->set_perplexity_uniform(uniform.perplexity.value());
    q->set_perplexity_uniform_standard_error(uniform.perplexity.standard_error());
  }
  // Written so that a NaN loses. A single variant keeps what the allocation said of it.
  if (variants.size() > 1) {
    q->set_published_mixed(
        !(uniform.kl.value() < mixed.kl.value() || std::isnan(mixed.kl.value())));
  }
  const bool publish_uniform = variants.size() > 1 && !q->published_mixed();
  const Score& best = publish_uniform ? uniform : mixed;
  if (!std::isfinite(best.kl.value()) || !std::isfinite(best.perplexity.value())) {
    return absl::InternalError(absl::StrCat("evaluation: KL ", best.kl.value(), ", perplexity ",
                                            best.perplexity.value(),
                                            ": expected finite numbers; the quantized model is "
                                            "not usable, try wider candidates"));
  }
  const v1::Estimate full =
      PerplexityOver(windows, [](const v1::WindowScore& w) { return w.nll_full(); });
  q->set_kl(best.kl.value());
  q->set_kl_standard_error(best.kl.standard_error());
  q->set_perplexity_quantized(best.perplexity.value());
  q->set_perplexity_quantized_standard_error(best.perplexity.standard_error());
  q->set_perplexity_full(full.value());
  q->set_perplexity_full_standard_error(full.standard_error());
  q->set_windows(static_cast<uint32_t>(windows.size()));
  q->set_window_length(view.job().spec().evaluation().length());
  for (const ViewedTask* t : view.Evaluation()) {
    if (!t->task.evaluate().check_server()) continue;
    q->set_server_max_logit_error(t->result.evaluate().server_max_logit_error());
  }
  const Averages averages = AveragesOf(variants[publish_uniform ? 1 : 0], view.Reports());
  q->set_planes(averages.planes);
  q->set_stored_bits(averages.stored_bits);
  if (refined) CompareWithUnrefined(&update, before);
  v1::JobEvent event;
  *event.mutable_evaluation() = *q;
  update.events.push_back(event);
  const bool refine = !refined && Refines(view.job().spec());
  update.job.set_state(refine ? v1::JOB_STATE_REFINING : v1::JOB_STATE_PACKAGING);
  return update;
}

}  // namespace shiftadd::coordinator::internal
