// Allocation for a job as it stands: for ALLOCATING and for users' questions about other budgets.
#ifndef SHIFTADD_SERVICES_COORDINATOR_JOB_ALLOCATION_H_
#define SHIFTADD_SERVICES_COORDINATOR_JOB_ALLOCATION_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/coordinator/budget.h"
#include "services/coordinator/job_view.h"

namespace shiftadd::coordinator {

// FAILED_PRECONDITION, saying how far the job is, unless every layer has all its candidates and
// head and embedding are there too: from ALLOCATING on, also if the job has failed since.
absl::Status CheckCandidates(const JobView& view);

// Allocates from the candidates of `view` for `spec`, which is the job's own or differs from it in
// budget, criterion and uniform. Errors: see Allocate; those of `sizes`.
absl::StatusOr<Allocation> AllocateJob(const JobView& view, const v1::JobSpec& spec,
                                       const BlobSizes& sizes);

// What `spec` would give, layer by layer. The package's size is an estimate but for budgets in
// bytes. Errors as above.
absl::StatusOr<v1::PlanBudgetResponse> PlanBudget(const JobView& view, const v1::JobSpec& spec,
                                                  const BlobSizes& sizes);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_JOB_ALLOCATION_H_
