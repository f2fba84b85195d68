// The state machine of a job: what follows from a job and its tasks. Pure but for what it asks of
// the packager, which the caller hands in; everything is derived from the rows, so a step lost in a
// crash is found again.
//
//   QUEUED → INGESTING → CALIBRATING → PROFILING → ALLOCATING → EVALUATING → PACKAGING
//   QUEUED → ALLOCATING → EVALUATING → PACKAGING   (a child of PublishBudget)
//   QUEUED → CALIBRATING → EVALUATING → PACKAGING  (a job of EvaluatePackage)
//
// Jobs that propagate quantized inputs come by EVALUATING twice:
//
//   … → ALLOCATING → EVALUATING → REFINING → EVALUATING → PACKAGING
//
// The first evaluation picks between the mixed and the uniform variant on the candidates there are,
// so that REFINING, which goes through the blocks in order, is done for one variant only; the
// second measures what is published.
#ifndef SHIFTADD_SERVICES_COORDINATOR_PLANNER_H_
#define SHIFTADD_SERVICES_COORDINATOR_PLANNER_H_

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/coordinator/budget.h"
#include "services/coordinator/job_view.h"
#include "services/store/job_store.h"
#include "shiftadd/v1/package.pb.h"

namespace shiftadd::coordinator {

struct PlanContext {
  int workers = 1;       // alive, of the job's device class
  BlobSizes blob_sizes;  // asked in ALLOCATING only
  // A package by its digest; asked in CALIBRATING by jobs of EvaluatePackage only.
  std::function<absl::StatusOr<v1::Package>(const std::string& reference)> package;
  std::string quantizer_version;
};

// The next step, or nothing to do until a task ends. A job that must fail is a step too. An error
// is one of the packager that may pass: plan again later. PACKAGING is not planned here: see
// Coordinator.
absl::StatusOr<std::optional<JobUpdate>> PlanNext(const JobView& view, const PlanContext& context);

// What is in the way of going on with the job's candidates at this version; empty: nothing.
std::string VersionFault(const JobRecord& job, const std::string& quantizer_version);

// The step that has the source of a job, whose plan has digests, hashed once more. PlanNext fails
// the job if a file has changed.
JobUpdate CheckSourceAgain(const JobView& view);

// The step that ends a job as FAILED with `error`.
JobUpdate FailJob(const JobView& view, const std::string& error);

// Without progress for so long, a worker stops renewing its lease.
absl::Duration StallLimit(v1::TaskKind kind);

// Blocks before which PROFILING is cut for `workers`: i*B/n.
std::vector<uint32_t> SplitBlocks(uint32_t blocks, int workers);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_PLANNER_H_
