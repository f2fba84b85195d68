// Blobs of a job that were lost or damaged are made again by the tasks that had stored them: equal
// inputs give equal bytes.
#ifndef SHIFTADD_SERVICES_COORDINATOR_REPAIR_H_
#define SHIFTADD_SERVICES_COORDINATOR_REPAIR_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/coordinator/job_view.h"
#include "services/store/job_store.h"

namespace shiftadd::coordinator {

// A blob that is lost as often as this is not lost by chance.
inline constexpr int kMaxRepairs = 8;

// The step that adds a REPAIR task for every task that has stored one of `lost`, but for those that
// one is open for already; nothing if that are all. `repair`: the ordinal of the REPAIR task that
// has found them lost, if it was one; what it waits for must come behind it, since the last REPAIR
// task is done first (scheduling.h). The done task stays as it is: what it has reported is what the
// repair has to give. A task that the job took over from its parent is run again as if it were its
// own: what it reads, which was the parent's scratch, is then found missing and made again too.
// FAILED_PRECONDITION names a blob that no task of this job stored (a text of the user's), or that
// was repaired kMaxRepairs times.
absl::StatusOr<std::optional<JobUpdate>> PlanRepair(const JobView& view,
                                                    const std::vector<std::string>& lost,
                                                    std::optional<uint32_t> repair = std::nullopt);

// REPAIR tasks that are not done.
int OpenRepairs(const JobView& view);

// INVALID_ARGUMENT unless the result of a REPAIR task names the blob that was lost.
absl::Status CheckRepaired(const v1::Task& task, const v1::TaskResult& result);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_REPAIR_H_
