// For tests: REFINE tasks answered with texts in the place of numbers.
#ifndef SHIFTADD_SERVICES_COORDINATOR_SIMULATED_REFINE_H_
#define SHIFTADD_SERVICES_COORDINATOR_SIMULATED_REFINE_H_

#include "absl/status/statusor.h"
#include "services/blob/blob_store.h"
#include "shiftadd/v1/task.pb.h"

namespace shiftadd::coordinator {

// What comes out names everything that went in, but not how rows were cut into shards; so equal
// digests mean equal inputs, in equal order. Every scratch blob that the task names is read: an
// error if one is gone, if shards do not make whole layers, or if the task lacks something.
absl::StatusOr<v1::RefineResult> SimulateRefine(const v1::Task& task, BlobStore* scratch);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_SIMULATED_REFINE_H_
