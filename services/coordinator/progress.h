// How far a job is and how long it will take, from its tasks.
#ifndef SHIFTADD_SERVICES_COORDINATOR_PROGRESS_H_
#define SHIFTADD_SERVICES_COORDINATOR_PROGRESS_H_

#include <vector>

#include "absl/time/time.h"
#include "services/store/job_store.h"

namespace shiftadd::coordinator {

// `tasks` may come without bytes. `output_error` is the caller's to fill in.
v1::Progress ComputeProgress(const v1::Job& job, const std::vector<TaskRecord>& tasks,
                             absl::Time now);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_PROGRESS_H_
