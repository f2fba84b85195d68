// The steps of the planner, state by state. Internal to planner*.cc.
#ifndef SHIFTADD_SERVICES_COORDINATOR_PLANNER_INTERNAL_H_
#define SHIFTADD_SERVICES_COORDINATOR_PLANNER_INTERNAL_H_

#include <optional>

#include "services/coordinator/planner.h"

namespace shiftadd::coordinator::internal {

using MaybeUpdate = absl::StatusOr<std::optional<JobUpdate>>;

// An update that changes nothing yet.
JobUpdate StartUpdate(const JobView& view);
// A task of `kind` with its context and stall limit filled in.
v1::Task StartTask(const v1::Job& job, v1::TaskKind kind);
// Gives a task that factors Hessians of `layers` time for the widest: one factor shows no progress.
void AllowFactors(const google::protobuf::RepeatedPtrField<v1::LayerPlan>& layers, v1::Task* task);
void AddTask(JobUpdate* update, const v1::Task& task, uint32_t ordinal, int rank = 0,
             uint32_t lane = 0);
void AddLog(JobUpdate* update, const std::string& text);

// A HASH task: digests of the source's files. `ordinal`: the job's HASH tasks so far.
void AddHashTask(const v1::Job& job, uint32_t ordinal, JobUpdate* update);
// The last HASH task against the plan: FAILED_PRECONDITION names a file that has changed. A child's
// source must be what its parent quantized, a retried job's what it began with.
absl::Status CheckSource(const JobView& view);
// CALIBRATE tasks for the held-out windows, behind the calibration's.
void AddHeldOutTasks(const v1::Job& job, JobUpdate* update);
// Fewer windows than asked for, in numbers; empty if there are enough. Windows still to be made do
// not count as missing.
std::string MissingWindows(const JobView& view);

MaybeUpdate PlanIngesting(const JobView& view, int workers);
MaybeUpdate PlanCalibrating(const JobView& view, int workers);
MaybeUpdate PlanProfiling(const JobView& view);
MaybeUpdate PlanAllocating(const JobView& view, const PlanContext& context);
MaybeUpdate PlanEvaluating(const JobView& view);
MaybeUpdate PlanRefining(const JobView& view, int workers);
// Every state of a job of EvaluatePackage.
MaybeUpdate PlanPackageEvaluation(const JobView& view, const PlanContext& context);

// EVALUATE tasks for `variants`, at least one for each part of the held-out windows and as many as
// give every worker a share; the first variant is also compared with what the server computes.
// `round`: 0, or 1 for the refined layers.
absl::Status AddEvaluateTasks(const JobView& view, const std::vector<v1::Variant>& variants,
                              uint32_t round, int workers, JobUpdate* update);

}  // namespace shiftadd::coordinator::internal

#endif  // SHIFTADD_SERVICES_COORDINATOR_PLANNER_INTERNAL_H_
