// A worker's life: lease a task, run it, keep its lease alive, report.
#ifndef SHIFTADD_WORKER_TASKS_LEASE_LOOP_H_
#define SHIFTADD_WORKER_TASKS_LEASE_LOOP_H_

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "services/rpc/failover.h"
#include "shiftadd/v1/task.grpc.pb.h"
#include "worker/tasks/phases.h"
#include "worker/tasks/runner.h"

namespace shiftadd {

struct WorkerIdentity {
  std::string worker_id;
  std::string device_class;
  uint64_t memory_bytes = 0;
};

// Runs until Stop. A lost lease, a cancelled job or Stop end the running task within about a
// second. Results are reported until the coordinator has taken or refused them, so a coordinator
// may restart in between. Of several coordinators one is used until it is away.
//
// One task is at work at a time. What it leaves to be stored, its lease and its report are looked
// after beside the next task: a task is done when all of it is stored, and until then its lease is
// renewed. A worker that dies loses the leases of all of them.
class LeaseLoop {
 public:
  // All must outlive the loop.
  LeaseLoop(WorkerIdentity identity, const rpc::Failover<v1::TaskService>* coordinators,
            Runner* runner, WorkerMetrics* metrics);
  ~LeaseLoop();

  // Not OK: the device is lost (Runner::device_fault), and Run has ended by itself after the
  // task was given back as failed.
  absl::Status Run();
  // Drains: from any thread. The running task is given back without counting as an attempt.
  void Stop();
  // Empty when the coordinator answers, otherwise why not.
  std::string NotReadyReason() const;

 private:
  // One lease, from its grant until its task is reported.
  struct Leased;

  void RunTask(const v1::Task& task);
  // Renews until `leased` ends; cancels the task when it must stop, and notes that it is lost.
  void Heartbeat(Leased* leased);
  // Waits for what the task has left, ends its lease and reports it.
  void Close(Leased* leased);
  // Until at most `most` tasks are being closed.
  void AwaitClosed(size_t most);
  void Report(const Leased& leased, const absl::StatusOr<v1::TaskResult>& result);
  absl::Status SendReport(const Leased& leased, const absl::StatusOr<v1::TaskResult>& result);
  void SetReason(const std::string& reason);
  bool SleepUnlessStopped(absl::Duration duration);

  const WorkerIdentity identity_;
  const rpc::Failover<v1::TaskService>* const coordinators_;
  Runner* const runner_;
  WorkerMetrics* const metrics_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> store_away_{false};         // a task has just failed for it
  std::list<std::unique_ptr<Leased>> closing_;  // of Run's thread; the oldest in front
  mutable std::mutex mutex_;
  std::string reason_ = "the coordinator has not answered yet";
  grpc::ClientContext* polling_ = nullptr;  // guarded by mutex_
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_LEASE_LOOP_H_
