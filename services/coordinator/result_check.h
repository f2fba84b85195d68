// Whether a worker's result answers its task.
#ifndef SHIFTADD_SERVICES_COORDINATOR_RESULT_CHECK_H_
#define SHIFTADD_SERVICES_COORDINATOR_RESULT_CHECK_H_

#include "absl/status/status.h"
#include "shiftadd/v1/task.pb.h"

namespace shiftadd::coordinator {

// INVALID_ARGUMENT names the field, what was found and what was expected. Checks what planning
// builds on: the kind, digests, layers, numbers; not the blobs themselves.
absl::Status CheckResult(const v1::Task& task, const v1::TaskResult& result);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_RESULT_CHECK_H_
