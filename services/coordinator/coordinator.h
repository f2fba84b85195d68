// The coordinator without its transport: what users and workers ask of it, and the steps it takes
// by itself.
#ifndef SHIFTADD_SERVICES_COORDINATOR_COORDINATOR_H_
#define SHIFTADD_SERVICES_COORDINATOR_COORDINATOR_H_

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/base/clock.h"
#include "services/base/version.h"
#include "services/blob/blob_store.h"
#include "services/coordinator/job_view.h"
#include "services/coordinator/publisher.h"
#include "services/coordinator/watch_hub.h"
#include "services/job/field_faults.h"
#include "services/store/job_store.h"

namespace shiftadd::coordinator {

// What happened, for metrics. Called on any thread, must be quick. All may be left empty.
struct Observer {
  std::function<void(v1::TaskKind, double seconds)> task_done;
  std::function<void(const std::string& cause)> task_retried;
  std::function<void()> lease_expired;
};

struct CoordinatorOptions {
  absl::Duration lease = absl::Seconds(30);
  // Workers of another one idle, and jobs that another one has begun fail: their candidates would
  // not be of one kind.
  std::string quantizer_version = QuantizerVersion();
  // Jobs that have not ended: of all, and of one owner. Beyond: RESOURCE_EXHAUSTED; 0: no limit.
  int max_jobs = 0;
  int max_jobs_per_owner = 0;
  // Owners are who they say: what a job publishes is its owner's, and nobody else's tag.
  bool owners_are_known = false;
  Observer observer;
};

// Thread-safe; it keeps nothing that the store does not have but hints that save work. Owns none of
// its parts, which must outlive it. `scratch` may be null: then nobody deletes scratch.
class Coordinator {
 public:
  Coordinator(JobStore* store, Publisher* publisher, BlobStore* scratch, const Clock* clock,
              CoordinatorOptions options = {});

  // --- Users ---
  // Faults of the request go to `faults`, and the status is INVALID_ARGUMENT.
  absl::StatusOr<v1::Job> Submit(const v1::SubmitJobRequest& request, const std::string& owner,
                                 std::vector<FieldFault>* faults);
  absl::StatusOr<v1::Job> Get(const std::string& job_id);
  absl::StatusOr<v1::ListJobsResponse> List(const v1::ListJobsRequest& request);
  absl::StatusOr<v1::Job> Cancel(const std::string& job_id);
  absl::StatusOr<v1::Job> Retry(const std::string& job_id);
  absl::Status Delete(const std::string& job_id);
  absl::StatusOr<v1::JobReport> Report(const std::string& job_id);
  // Faults as above. FAILED_PRECONDITION: the job has not all candidates yet, the budget is
  // infeasible, or the candidates lack the criterion's figure.
  absl::StatusOr<v1::PlanBudgetResponse> PlanBudget(const v1::PlanBudgetRequest& request,
                                                    std::vector<FieldFault>* faults);
  // A job over the candidates of a SUCCEEDED one, which it does not need once it exists. Faults as
  // above. FAILED_PRECONDITION as above, and if the candidates are gone or were refined.
  absl::StatusOr<v1::Job> PublishBudget(const v1::PublishBudgetRequest& request,
                                        const std::string& owner, std::vector<FieldFault>* faults);
  // A job that measures a published package. Faults as above. NOT_FOUND: no such package.
  // FAILED_PRECONDITION: nobody knows where its source is.
  absl::StatusOr<v1::Job> EvaluatePackage(const v1::EvaluatePackageRequest& request,
                                          const std::string& owner,
                                          std::vector<FieldFault>* faults);
  absl::StatusOr<std::vector<v1::WorkerInfo>> Workers();
  // A store that does not answer is told of, and no error.
  v1::ClusterStatus Status(const v1::GetClusterStatusRequest& request);
  absl::Status DrainWorker(const v1::DrainWorkerRequest& request);
  // Hands events from `from_sequence` on to `send` as they come. Returns OK after the event that
  // ends the job, when `send` says false, or when `stopped` says true.
  absl::Status Watch(const std::string& job_id, uint64_t from_sequence,
                     const std::function<bool(const v1::JobEvent&)>& send,
                     const std::function<bool()>& stopped);

  // --- Workers ---
  // Waits up to the request's max_wait for a task, or until `stopped`.
  absl::StatusOr<v1::LeaseTaskResponse> Lease(const v1::LeaseTaskRequest& request,
                                              const std::function<bool()>& stopped);
  absl::StatusOr<v1::RenewLeaseResponse> Renew(const v1::RenewLeaseRequest& request);
  absl::Status Complete(const v1::CompleteTaskRequest& request);
  absl::Status Fail(const v1::FailTaskRequest& request);

  // --- By itself ---
  // Reaps expired leases and takes every step that is due. Call it after changes and about once a
  // second. Faults of one job are logged and do not keep the others waiting; the status is the
  // store's.
  absl::Status Tick();

  JobStore* store() { return store_; }

 private:
  // Hints of one job; losing them costs work, never correctness.
  struct Memory {
    std::string signature;                         // of the rows at the last planning
    JobMark mark;                                  // when it was last looked at
    TaskCounts counts;                             // as they were then
    absl::Time look_again = absl::InfinitePast();  // although nothing that matters has happened
    std::set<std::string> pinned;                  // blobs
    std::set<std::string> freed;                   // scratch blobs
    absl::Time wait_until = absl::InfinitePast();  // after a fault that may pass
    absl::Time last_progress = absl::InfinitePast();
    double last_ratio = -1;
    std::string last_fault;
  };

  // Whether `owner` may have one job more; a request that made its job already may be repeated.
  absl::Status CheckQuota(const std::string& owner, const std::string& request_id,
                          const std::string& fingerprint);
  // Whether a job of `owner` may publish as its output says; the same of repeated requests. The
  // packager looks again when it does so: one that is away now is no fault.
  absl::Status CheckOutput(const std::string& owner, const NewJob& job);
  static void CheckRequestId(const std::string& id, std::vector<FieldFault>* faults);
  // The packager's sizes, each asked for once.
  BlobSizes Sizes();
  absl::Status FillStatus(int failed_jobs, v1::ClusterStatus* status);
  absl::StatusOr<v1::Job> WithProgress(JobRecord record);
  v1::Progress Progress(const v1::Job& job, const std::vector<TaskRecord>& tasks);
  double RunningError(const v1::Job& job);

  // Has the tasks run again that stored what a task has found missing. FAILED_PRECONDITION: there
  // are none.
  absl::Status Repair(const v1::FailTaskRequest& request);
  absl::Status StepJob(const JobMark& mark);
  // Whether StepOnce may have something to do, as far as can be told without reading the tasks.
  absl::StatusOr<bool> NeedsLook(const JobMark& mark, const Memory& memory);
  // True if a step was taken and another may follow.
  absl::StatusOr<bool> StepOnce(const std::string& job_id);
  absl::StatusOr<bool> Package(const JobView& view);
  // Publishes what a job has made, into `job`; or stores what it measured.
  absl::Status Publish(const JobView& view, v1::Job* job);
  absl::Status AttachEvaluation(const v1::Job& job);
  // The step that makes again which of the job's blobs the packager does not have; nothing if it
  // has them all, or cannot say.
  absl::StatusOr<std::optional<JobUpdate>> RepairMissing(const JobView& view);
  absl::Status PinNew(const JobView& view);
  // Deletes scratch that REFINING has done with; the rest goes when the job ends.
  void FreeScratch(const JobView& view);
  absl::Status CleanUp(const JobRecord& record);
  absl::Status EmitProgress(const v1::Job& job, const std::vector<TaskRecord>& tasks);
  absl::StatusOr<int> WorkersFor(const v1::Job& job);
  absl::StatusOr<bool> Apply(const JobUpdate& update);
  void NoteFault(const std::string& job_id, const absl::Status& status);
  Memory& MemoryOf(const std::string& job_id);

  JobStore* const store_;
  Publisher* const publisher_;
  BlobStore* const scratch_;
  const Clock* const clock_;
  const CoordinatorOptions options_;

  std::mutex tick_mutex_;                 // one driver at a time
  std::map<std::string, Memory> memory_;  // under tick_mutex_

  WatchHub watch_hub_;

  // The store's count of work (JobStore::AwaitWork) at which there was no ready task.
  std::atomic<uint64_t> nothing_ready_{0};

  std::mutex size_mutex_;
  std::map<std::string, uint64_t> sizes_;  // of blobs; under size_mutex_

  std::mutex error_mutex_;
  // Sum and count of output errors at the width nearest the budget, by job; from task results.
  std::map<std::string, std::pair<double, uint64_t>> running_error_;
};

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_COORDINATOR_H_
