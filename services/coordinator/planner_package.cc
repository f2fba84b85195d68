// Jobs of EvaluatePackage: the windows of a text, their scores, and the figures.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/base/status_macros.h"
#include "services/coordinator/evaluated_package.h"
#include "services/coordinator/evaluation_figures.h"
#include "services/coordinator/planner_internal.h"

namespace shiftadd::coordinator::internal {
namespace {

// One task cuts all windows: that costs a pass of the tokenizer, whatever their number, and says
// how many the text has.
JobUpdate StartWindows(const JobView& view) {
  JobUpdate update = StartUpdate(view);
  AddHashTask(view.job(), 0, &update);
  const v1::Evaluation& e = view.job().spec().evaluation();
  v1::Task task = StartTask(view.job(), v1::TASK_KIND_CALIBRATE);
  v1::CalibrateTask* t = task.mutable_calibrate();
  t->set_count(e.sequences() > 0 ? e.sequences() : kMaxEvaluationWindows);
  t->set_length(e.length());
  t->set_text_digest(e.text_digest());
  t->set_text_first(e.skip());
  t->set_held_out(true);
  AddTask(&update, task, 0);
  update.job.set_state(v1::JOB_STATE_CALIBRATING);
  return update;
}

absl::Status CheckCount(const v1::Evaluation& e, uint32_t found) {
  if (found > 0 && found >= e.sequences()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "evaluation.sequences: the text gives ", found, " windows of ", e.length(), " tokens",
      e.skip() > 0 ? absl::StrCat(" behind the ", e.skip(), " of evaluation.skip") : "",
      ", asked for ", std::max(1u, e.sequences()),
      ": give a longer text, or fewer or shorter windows"));
}

MaybeUpdate StartScores(const JobView& view, const PlanContext& context) {
  if (!view.AllDone()) return std::nullopt;
  const v1::CalibrateResult& windows =
      view.OfKind(v1::TASK_KIND_CALIBRATE).front()->result.calibrate();
  SA_RETURN_IF_ERROR(CheckCount(view.job().spec().evaluation(), windows.count()));
  SA_ASSIGN_OR_RETURN(const v1::Package package,
                      context.package(view.job().spec().evaluated_package()));
  SA_ASSIGN_OR_RETURN(const EvaluatedPackage measured, ReadEvaluatedPackage(package));
  JobUpdate update = StartUpdate(view);
  v1::Task task = StartTask(view.job(), v1::TASK_KIND_EVALUATE);
  v1::EvaluateTask* t = task.mutable_evaluate();
  *t->add_variants() = measured.variant;
  t->set_head_digest(measured.head_digest);
  t->set_unquantized_digest(measured.unquantized_digest);
  t->set_package_config_json(package.config_json());
  t->set_tokens_digest(windows.digest());
  t->set_token_scores(true);
  const auto shares = static_cast<uint32_t>(std::max(1, context.workers));
  const uint32_t share = std::clamp((windows.count() + shares - 1) / shares, 1u, kMicrobatch);
  for (uint32_t first = 0, ordinal = 0; first < windows.count(); first += share, ++ordinal) {
    t->set_first_window(first);
    t->set_windows(std::min(share, windows.count() - first));
    t->set_check_server(first == 0);
    AddTask(&update, task, ordinal);
  }
  if (windows.count() == kMaxEvaluationWindows && view.job().spec().evaluation().sequences() == 0) {
    AddLog(&update, absl::StrCat("the text has ", kMaxEvaluationWindows,
                                 " windows or more: only so many are measured"));
  }
  update.job.set_state(v1::JOB_STATE_EVALUATING);
  return update;
}

MaybeUpdate FinishScores(const JobView& view) {
  if (!view.AllDone()) return std::nullopt;
  std::vector<v1::WindowScore> windows;
  double server_error = 0;
  for (const ViewedTask* t : view.OfKind(v1::TASK_KIND_EVALUATE)) {
    const v1::EvaluateResult& result = t->result.evaluate();
    windows.insert(windows.end(), result.windows().begin(), result.windows().end());
    if (t->task.evaluate().check_server()) server_error = result.server_max_logit_error();
  }
  SA_ASSIGN_OR_RETURN(v1::PackageEvaluation figures, EvaluationFigures(windows));
  const v1::Job& job = view.job();
  figures.set_text_digest(job.spec().evaluation().text_digest());
  figures.set_skip(job.spec().evaluation().skip());
  figures.set_window_length(job.spec().evaluation().length());
  figures.set_server_max_logit_error(server_error);
  figures.set_device_class(job.spec().any_device() ? "any" : job.device_class());
  figures.set_quantizer_version(view.record().quantizer_version);
  JobUpdate update = StartUpdate(view);
  *update.job.mutable_package_evaluation() = figures;
  v1::JobEvent event;
  *event.mutable_package_evaluation() = std::move(figures);
  update.events.push_back(event);
  update.job.set_state(v1::JOB_STATE_PACKAGING);
  return update;
}

}  // namespace

MaybeUpdate PlanPackageEvaluation(const JobView& view, const PlanContext& context) {
  switch (view.job().state()) {
    case v1::JOB_STATE_QUEUED:
      return StartWindows(view);
    case v1::JOB_STATE_CALIBRATING:
      return StartScores(view, context);
    case v1::JOB_STATE_EVALUATING:
      return FinishScores(view);
    default:
      return std::nullopt;
  }
}

}  // namespace shiftadd::coordinator::internal
