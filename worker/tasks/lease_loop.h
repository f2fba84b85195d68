// A worker's life: lease a task, run it, keep its lease alive, report.
#ifndef SHIFTADD_WORKER_TASKS_LEASE_LOOP_H_
#define SHIFTADD_WORKER_TASKS_LEASE_LOOP_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "services/rpc/failover.h"
#include "shiftadd/v1/task.grpc.pb.h"
#include "worker/tasks/task_runner.h"

namespace shiftadd {

struct WorkerIdentity {
  std::string worker_id;
  std::string device_class;
  uint64_t memory_bytes = 0;
};

// Runs until Stop. A lost lease, a cancelled job or Stop end the running task within about a
// second. Results are reported until the coordinator has taken or refused them, so a coordinator
// may restart in between. Of several coordinators one is used until it is away.
class LeaseLoop {
 public:
  // All must outlive the loop.
  LeaseLoop(WorkerIdentity identity, const rpc::Failover<v1::TaskService>* coordinators,
            TaskRunner* runner, WorkerMetrics* metrics);

  // Not OK: the device is lost (TaskRunner::device_fault), and Run has ended by itself after the
  // task was given back as failed.
  absl::Status Run();
  // Drains: from any thread. The running task is given back without counting as an attempt.
  void Stop();
  // Empty when the coordinator answers, otherwise why not.
  std::string NotReadyReason() const;

 private:
  void RunTask(const v1::Task& task);
  // Renews until `done`; cancels the task when it must stop. Returns true if the lease was lost.
  bool Heartbeat(const v1::Task& task, TaskControl* control, const std::atomic<bool>* done);
  void Report(const v1::Task& task, const absl::StatusOr<v1::TaskResult>& result);
  absl::Status SendReport(const v1::Task& task, const absl::StatusOr<v1::TaskResult>& result);
  void SetReason(const std::string& reason);
  bool SleepUnlessStopped(absl::Duration duration);

  const WorkerIdentity identity_;
  const rpc::Failover<v1::TaskService>* const coordinators_;
  TaskRunner* const runner_;
  WorkerMetrics* const metrics_;
  std::atomic<bool> stop_{false};
  mutable std::mutex mutex_;
  std::string reason_ = "the coordinator has not answered yet";
  grpc::ClientContext* polling_ = nullptr;  // guarded by mutex_
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_LEASE_LOOP_H_
