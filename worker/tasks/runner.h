// What the lease loop knows of whoever runs its tasks.
#ifndef SHIFTADD_WORKER_TASKS_RUNNER_H_
#define SHIFTADD_WORKER_TASKS_RUNNER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shiftadd/v1/task.pb.h"
#include "worker/reference/reference_model.h"

namespace shiftadd {

// What a worker keeps between tasks of one job, so that consecutive blocks cost one block each.
struct HeldActivations {
  std::string job_id;
  uint32_t block = 0;  // the activations enter this block
};

// A task whose own work is done, or has failed, and of which blobs may still be on their way into
// the store.
class StoringTask {
 public:
  virtual ~StoringTask() = default;
  // Of the work.
  virtual const absl::Status& status() const = 0;
  // Waits until all is stored. Once; on any thread, also beside the runner's next task.
  virtual absl::StatusOr<v1::TaskResult> Finish() = 0;
  // Blobs that the task asked for and that were not there, or had other bytes.
  virtual std::vector<std::string> lost_blobs() const = 0;
};

// One task at a time.
class Runner {
 public:
  virtual ~Runner() = default;
  // Does a task's work; `control` must outlive the result.
  virtual std::unique_ptr<StoringTask> Begin(const v1::Task& task, TaskControl* control) = 0;
  virtual std::optional<HeldActivations> held() const = 0;
  // Not OK once a task has failed and the device answers no more: this process can do nothing else
  // with it.
  virtual absl::Status device_fault() const = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_RUNNER_H_
