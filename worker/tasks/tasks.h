// The work of each task kind. Every function is idempotent and reports progress through `control`.
#ifndef SHIFTADD_WORKER_TASKS_TASKS_H_
#define SHIFTADD_WORKER_TASKS_TASKS_H_

#include "absl/status/statusor.h"
#include "shiftadd/v1/task.pb.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/reference/reference_model.h"
#include "worker/tasks/job_session.h"

namespace shiftadd {

absl::StatusOr<v1::IngestResult> RunIngest(const v1::TaskContext& context,
                                           const v1::IngestTask& task, JobSession* session);
absl::StatusOr<v1::HashResult> RunHash(const v1::HashTask& task, JobSession* session,
                                       TaskControl* control);
absl::StatusOr<v1::CalibrateResult> RunCalibrate(const v1::TaskContext& context,
                                                 const v1::CalibrateTask& task, JobSession* session,
                                                 TaskControl* control);
absl::StatusOr<v1::ForwardResult> RunForward(const v1::ForwardTask& task, JobSession* session,
                                             TaskControl* control);
absl::StatusOr<v1::ProfileResult> RunProfile(const v1::TaskContext& context,
                                             const v1::ProfileTask& task, JobSession* session,
                                             TaskControl* control);
absl::StatusOr<v1::MeasureResult> RunMeasure(const v1::TaskContext& context,
                                             const v1::MeasureTask& task, JobSession* session,
                                             TaskControl* control);
absl::StatusOr<v1::RefineResult> RunRefine(const v1::TaskContext& context,
                                           const v1::RefineTask& task, JobSession* session,
                                           TaskControl* control);
absl::StatusOr<v1::EndsResult> RunEnds(const v1::TaskContext& context, JobSession* session);
absl::StatusOr<v1::EvaluateResult> RunEvaluate(const v1::EvaluateTask& task, JobSession* session,
                                               TaskControl* control);

// The quantizer's form of a resolved recipe.
QuantRecipe ToQuantRecipe(const v1::Recipe& recipe);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_TASKS_H_
