// The work of each task kind. Every function is idempotent and reports progress through `control`.
#ifndef SHIFTADD_WORKER_TASKS_TASKS_H_
#define SHIFTADD_WORKER_TASKS_TASKS_H_

#include "absl/status/statusor.h"
#include "shiftadd/v1/task.pb.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/reference/reference_model.h"
#include "worker/tasks/job_session.h"

namespace shiftadd {

// What is left of a task whose own work is done: waits for blobs that are on their way into the
// store, and puts their digests into the result that the task was given. Run once, by any thread,
// beside the session's next task: it touches neither session nor device, and may outlive them.
using Closing = std::function<absl::Status()>;

absl::StatusOr<v1::IngestResult> RunIngest(const v1::TaskContext& context,
                                           const v1::IngestTask& task, JobSession* session);
// On a device all of it is left to `closing`: it needs none. `result` and `control` must outlive
// it.
absl::Status RunHash(const v1::HashTask& task, JobSession* session, TaskControl* control,
                     v1::HashResult* result, Closing* closing);
absl::StatusOr<v1::CalibrateResult> RunCalibrate(const v1::TaskContext& context,
                                                 const v1::CalibrateTask& task, JobSession* session,
                                                 TaskControl* control);
// `result` and `control` must outlive what is left in `closing`.
absl::Status RunForward(const v1::ForwardTask& task, JobSession* session, TaskControl* control,
                        v1::ForwardResult* result, Closing* closing);
absl::Status RunProfile(const v1::TaskContext& context, const v1::ProfileTask& task,
                        JobSession* session, TaskControl* control, v1::ProfileResult* result,
                        Closing* closing);
absl::StatusOr<v1::MeasureResult> RunMeasure(const v1::TaskContext& context,
                                             const v1::MeasureTask& task, JobSession* session,
                                             TaskControl* control);
absl::StatusOr<v1::RefineResult> RunRefine(const v1::TaskContext& context,
                                           const v1::RefineTask& task, JobSession* session,
                                           TaskControl* control);
// On a device all of it is left to `closing`: it needs none.
absl::Status RunEnds(const v1::TaskContext& context, JobSession* session, v1::EndsResult* result,
                     Closing* closing);
absl::StatusOr<v1::EvaluateResult> RunEvaluate(const v1::EvaluateTask& task, JobSession* session,
                                               TaskControl* control);

// The quantizer's form of a resolved recipe.
QuantRecipe ToQuantRecipe(const v1::Recipe& recipe);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_TASKS_H_
