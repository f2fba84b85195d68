// Runs one task of a job. Translates between the task's messages and the libraries that do the
// work.
#ifndef SHIFTADD_WORKER_TASKS_TASK_RUNNER_H_
#define SHIFTADD_WORKER_TASKS_TASK_RUNNER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/blob/blob_store.h"
#include "shiftadd/v1/task.pb.h"
#include "worker/reference/reference_model.h"
#include "worker/tasks/phases.h"
#include "worker/tasks/runner.h"

namespace shiftadd {

struct TaskRunnerOptions {
  int threads = 1;
  std::vector<std::string> source_roots;  // absolute folders that sources must lie under
  uint64_t memory_bytes = 0;              // what this worker may use; 0 = the machine's
  Device device = Device::kCpu;           // where models run, and what quantizer there is for it
  uint64_t gpu_memory_bytes = 0;          // what it may use of its GPU; 0 = all
};

// Tasks are idempotent: running one twice stores the same blobs.
class TaskRunner : public Runner {
 public:
  // `store` and `metrics` must outlive the runner and its tasks.
  TaskRunner(TaskRunnerOptions options, BlobStore* store, WorkerMetrics* metrics);
  ~TaskRunner() override;

  // Errors name what was wrong in the source or the recipe. Out of memory is RESOURCE_EXHAUSTED.
  std::unique_ptr<StoringTask> Begin(const v1::Task& task, TaskControl* control) override;
  // Begin and Finish.
  absl::StatusOr<v1::TaskResult> Run(const v1::Task& task, TaskControl* control);

  std::optional<HeldActivations> held() const override;
  absl::Status device_fault() const override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_TASK_RUNNER_H_
