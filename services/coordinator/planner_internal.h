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
void AddTask(JobUpdate* update, const v1::Task& task, uint32_t ordinal, int rank = 0,
             uint32_t lane = 0);
void AddLog(JobUpdate* update, const std::string& text);

// The HASH task: digests of the source's files.
void AddHashTask(const v1::Job& job, JobUpdate* update);
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

// EVALUATE tasks for `variants`, at least one for each part of the held-out windows and as many as
// give every worker a share; the first variant is also compared with what the server computes.
// `round`: 0, or 1 for the refined layers.
absl::Status AddEvaluateTasks(const JobView& view, const std::vector<v1::Variant>& variants,
                              uint32_t round, int workers, JobUpdate* update);

}  // namespace shiftadd::coordinator::internal

#endif  // SHIFTADD_SERVICES_COORDINATOR_PLANNER_INTERNAL_H_
