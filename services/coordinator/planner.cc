#include "services/coordinator/planner.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/status_macros.h"
#include "services/coordinator/planner_internal.h"
#include "services/job/recipe.h"
#include "services/rpc/proto_duration.h"

namespace shiftadd::coordinator {
namespace internal {

JobUpdate StartUpdate(const JobView& view) {
  JobUpdate update;
  update.job = view.job();
  update.expected_revision = view.record().revision;
  return update;
}

v1::Task StartTask(const v1::Job& job, v1::TaskKind kind) {
  v1::Task task;
  task.set_kind(kind);
  v1::TaskContext* context = task.mutable_context();
  context->set_job_id(job.job_id());
  context->set_source(job.spec().source());
  context->set_trace_id(job.trace_id());
  *context->mutable_recipe() = job.spec().recipe();
  if (job.has_plan()) {
    ExpandOverrides(context->mutable_recipe(), job.plan());
    context->set_architecture_spec_json(job.plan().architecture_spec_json());
    context->set_tokenizer_digest(job.plan().tokenizer_digest());
  }
  *task.mutable_stall_limit() = rpc::ToProto(StallLimit(kind));
  return task;
}

void AllowFactors(const google::protobuf::RepeatedPtrField<v1::LayerPlan>& layers, v1::Task* task) {
  constexpr double kFlopsPerSecond = 5e9;  // float64 on one slow core
  double widest = 0;
  for (const v1::LayerPlan& layer : layers)
    widest = std::max(widest, static_cast<double>(layer.cols()));
  // Cholesky and the inverse of its factor: 2/3 of the width's cube.
  const double seconds = 2.0 / 3 * widest * widest * widest / kFlopsPerSecond;
  *task->mutable_stall_limit() = rpc::ToProto(rpc::FromProto(task->stall_limit()) +
                                              absl::Seconds(static_cast<int64_t>(seconds)));
}

void AddTask(JobUpdate* update, const v1::Task& task, uint32_t ordinal, int rank, uint32_t lane) {
  update->tasks.push_back({task.kind(), ordinal, lane, rank, task.SerializeAsString()});
}

void AddLog(JobUpdate* update, const std::string& text) {
  v1::JobEvent event;
  event.set_log(text);
  update->events.push_back(event);
}

namespace {

MaybeUpdate PlanQueued(const JobView& view) {
  JobUpdate update = StartUpdate(view);
  if (!view.job().spec().parent_job_id().empty()) {
    // A child of PublishBudget has its parent's plan and candidates; what it lacks are windows to
    // measure on, which were scratch, and to know that the source is still the one that was
    // quantized.
    update.job.set_state(v1::JOB_STATE_ALLOCATING);
    AddHashTask(view.job(), 0, &update);
    AddHeldOutTasks(view.job(), &update);
    return update;
  }
  update.job.set_state(v1::JOB_STATE_INGESTING);
  v1::Task task = StartTask(view.job(), v1::TASK_KIND_INGEST);
  *task.mutable_ingest()->mutable_calibration() = view.job().spec().calibration();
  *task.mutable_ingest()->mutable_evaluation() = view.job().spec().evaluation();
  AddTask(&update, task, 0);
  return update;
}

// The tensors that a task works on; empty if it is on the whole model.
std::string TensorsOf(const v1::Task& task) {
  std::vector<std::string> names;
  for (const v1::LayerPlan& layer : task.profile().layers()) names.push_back(layer.name());
  for (const v1::LayerPlan& layer : task.refine().layers()) names.push_back(layer.name());
  for (const v1::LayerReport& layer : task.measure().layers())
    names.push_back(layer.layer().name());
  return absl::StrJoin(names, ", ");
}

// Who goes over a task that nobody could do wants to know where, on what, and what was said.
std::string TaskFailure(const ViewedTask& t) {
  std::string text = absl::StrCat(v1::TaskKind_Name(t.record.kind).substr(sizeof("TASK_KIND_") - 1),
                                  " task ", t.record.ordinal, ": ", t.record.error);
  if (t.record.losses.size() < 2) return text;
  absl::StrAppend(&text, " (given up after ", t.record.losses.size(), " attempts:");
  for (const TaskLoss& loss : t.record.losses) {
    absl::StrAppend(&text, " worker ", loss.worker, ": ", loss.cause, ": ", loss.error, ";");
  }
  text.back() = ')';
  const std::string tensors = TensorsOf(t.task);
  return tensors.empty() ? text : absl::StrCat(text, "; tensors: ", tensors);
}

MaybeUpdate PlanState(const JobView& view, const PlanContext& context) {
  if (!view.job().spec().evaluated_package().empty()) return PlanPackageEvaluation(view, context);
  switch (view.job().state()) {
    case v1::JOB_STATE_QUEUED:
      return PlanQueued(view);
    case v1::JOB_STATE_INGESTING:
      return PlanIngesting(view, context.workers);
    case v1::JOB_STATE_CALIBRATING:
      return PlanCalibrating(view, context.workers);
    case v1::JOB_STATE_PROFILING:
      return PlanProfiling(view);
    case v1::JOB_STATE_ALLOCATING:
      return PlanAllocating(view, context);
    case v1::JOB_STATE_EVALUATING:
      return PlanEvaluating(view);
    case v1::JOB_STATE_REFINING:
      return PlanRefining(view, context.workers);
    default:
      return std::nullopt;  // PACKAGING is the coordinator's; the rest has ended
  }
}

bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

}  // namespace
}  // namespace internal

absl::StatusOr<std::optional<JobUpdate>> PlanNext(const JobView& view, const PlanContext& context) {
  const v1::JobState state = view.job().state();
  if (IsTerminal(state) || state == v1::JOB_STATE_CANCELLING) return std::nullopt;
  if (const ViewedTask* failed = view.FirstFailed()) {
    return FailJob(view, internal::TaskFailure(*failed));
  }
  const std::string fault = VersionFault(view.record(), context.quantizer_version);
  if (!fault.empty()) return FailJob(view, fault);
  // Before CALIBRATING there is nothing to compare with.
  if (state != v1::JOB_STATE_QUEUED && state != v1::JOB_STATE_INGESTING) {
    const absl::Status source = internal::CheckSource(view);
    if (!source.ok()) return FailJob(view, std::string(source.message()));
  }
  auto update = internal::PlanState(view, context);
  if (update.ok() || internal::MayPass(update.status())) return update;
  return FailJob(view, std::string(update.status().message()));
}

std::string VersionFault(const JobRecord& job, const std::string& quantizer_version) {
  if (job.quantizer_version.empty() || job.quantizer_version == quantizer_version) return "";
  return absl::StrCat("job ", job.job.job_id(), " is of quantizer version ", job.quantizer_version,
                      ", this cluster runs ", quantizer_version,
                      ": candidates of both would not go together, submit it again");
}

JobUpdate CheckSourceAgain(const JobView& view) {
  JobUpdate update = internal::StartUpdate(view);
  internal::AddHashTask(view.job(), static_cast<uint32_t>(view.OfKind(v1::TASK_KIND_HASH).size()),
                        &update);
  return update;
}

JobUpdate FailJob(const JobView& view, const std::string& error) {
  JobUpdate update = internal::StartUpdate(view);
  update.job.set_resume_state(view.job().state());
  update.job.set_state(v1::JOB_STATE_FAILED);
  update.job.set_error(error);
  update.drop_open_tasks = true;
  internal::AddLog(&update, absl::StrCat("failed: ", error));
  return update;
}

absl::Duration StallLimit(v1::TaskKind kind) {
  switch (kind) {
    case v1::TASK_KIND_INGEST:
    case v1::TASK_KIND_HASH:
      return absl::Minutes(2);
    case v1::TASK_KIND_PROFILE:
    case v1::TASK_KIND_EVALUATE:
    case v1::TASK_KIND_MEASURE:
    case v1::TASK_KIND_REFINE:
      return absl::Minutes(10);
    default:
      return absl::Minutes(5);
  }
}

std::vector<uint32_t> SplitBlocks(uint32_t blocks, int workers) {
  std::vector<uint32_t> splits;
  const auto n = static_cast<uint64_t>(std::clamp<int64_t>(workers, 1, std::max(1u, blocks)));
  for (uint64_t i = 1; i < n; ++i) splits.push_back(static_cast<uint32_t>(i * blocks / n));
  return splits;
}

}  // namespace shiftadd::coordinator
