// JobStore on a sql::Database. Internal: use OpenJobStore of job_store.h.
//
// Where transactions run side by side (PostgreSQL), rows are taken in this order: a job's tasks,
// the job, its owner. What a job's state decides is decided while its row is held, so every job's
// changes and events have one order.
#ifndef SHIFTADD_SERVICES_STORE_SQL_JOB_STORE_H_
#define SHIFTADD_SERVICES_STORE_SQL_JOB_STORE_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "services/store/change_signal.h"
#include "services/store/job_store.h"
#include "services/store/scheduling.h"
#include "services/store/sql.h"

namespace shiftadd {

class SqlJobStore : public JobStore {
 public:
  // `changes` hears of this database's commits, and of other processes' ones.
  SqlJobStore(std::unique_ptr<sql::Database> db, std::shared_ptr<ChangeSignal> changes,
              const StorePolicy& policy);

  // Gives running leases one lease time from now; if they end then without having been renewed,
  // that is nobody's fault and counts as no attempt.
  absl::Status ExtendLeases();

  absl::StatusOr<JobRecord> CreateJob(const NewJob& job) override;
  absl::StatusOr<std::optional<JobRecord>> FindRequest(const std::string& owner,
                                                       const std::string& request_id,
                                                       const std::string& fingerprint) override;
  absl::StatusOr<JobRecord> GetJob(const std::string& job_id) override;
  absl::StatusOr<std::vector<JobRecord>> ListJobs(int page_size, const std::string& page_token,
                                                  std::string* next_token) override;
  absl::StatusOr<std::vector<std::string>> JobsNeedingWork() override;
  absl::StatusOr<std::vector<JobMark>> MarksOfJobsNeedingWork() override;
  absl::StatusOr<std::map<std::string, uint64_t>> LastSequences(
      const std::vector<std::string>& job_ids) override;
  absl::StatusOr<std::map<v1::JobState, int>> CountJobs() override;
  absl::StatusOr<std::vector<JobRecord>> ListFailedJobs(int limit) override;
  absl::StatusOr<JobRecord> UpdateJob(const JobUpdate& update) override;
  absl::StatusOr<JobRecord> CancelJob(const std::string& job_id) override;
  absl::StatusOr<JobRecord> RetryJob(const std::string& job_id) override;
  absl::Status MarkCleaned(const std::string& job_id) override;
  absl::Status DeleteJob(const std::string& job_id) override;

  absl::Status AppendEvents(const std::string& job_id,
                            const std::vector<v1::JobEvent>& events) override;
  absl::StatusOr<std::vector<v1::JobEvent>> Events(const std::string& job_id,
                                                   uint64_t from_sequence, int limit) override;

  absl::StatusOr<std::vector<TaskRecord>> ListTasks(const std::string& job_id,
                                                    bool with_bytes) override;
  absl::StatusOr<TaskRecord> GetTask(const std::string& task_id) override;
  absl::StatusOr<TaskCounts> CountTasks() override;
  absl::StatusOr<TaskCounts> CountTasksOf(const std::string& job_id) override;
  absl::StatusOr<LeaseOutcome> LeaseTask(const LeaseQuery& query) override;
  absl::StatusOr<Renewal> RenewLease(const LeaseKey& key, double progress) override;
  absl::StatusOr<bool> CompleteTask(const LeaseKey& key, const std::string& result,
                                    const std::vector<v1::JobEvent>& events) override;
  absl::StatusOr<bool> FailTask(const LeaseKey& key, FailureKind kind, const std::string& cause,
                                int code, const std::string& message) override;
  absl::StatusOr<std::vector<Expired>> ReapExpired() override;

  absl::Status TouchWorker(const LeaseQuery& worker) override;
  absl::Status SetStanding(const std::string& worker, WorkerStanding standing) override;
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() override;

  absl::Time Now() override { return db_->Now(); }
  uint64_t AwaitChange(uint64_t seen, absl::Duration timeout) override;
  uint64_t AwaitWork(uint64_t seen, absl::Duration timeout) override;
  void StopWaiting() override;

 private:
  using Session = sql::Session;

  // What follows runs inside a transaction of its caller, unless it only reads. `hold`: the row
  // stays as it is until the transaction ends.
  static absl::StatusOr<JobRecord> ReadJob(Session& s, const std::string& job_id, bool hold);
  static absl::StatusOr<std::optional<JobRecord>> ReadRequest(Session& s, const std::string& owner,
                                                              const std::string& request_id,
                                                              const std::string& fingerprint);
  static absl::StatusOr<JobRecord> InsertJob(Session& s, const NewJob& job);
  static absl::Status WriteJob(Session& s, const JobRecord& record);
  // Give events their numbers; the job's state as it is then.
  static absl::StatusOr<v1::JobState> AddEvents(Session& s, const std::string& job_id,
                                                const std::vector<v1::JobEvent>& events);
  // Of a lease. ABORTED: the job is pinned to another device class.
  static absl::Status PinAndAddEvent(Session& s, const std::string& job_id,
                                     const std::string& device_class, const v1::JobEvent& event);
  static absl::Status WriteEvents(Session& s, const std::string& job_id, int64_t sequence,
                                  const std::vector<v1::JobEvent>& events);
  static v1::JobEvent TaskEvent(const TaskRecord& task, const char* change,
                                const std::string& detail);
  // Sets the state, its times and its event.
  static absl::Status MoveJob(Session& s, JobRecord* record, v1::JobState state);
  static absl::Status AddTasks(Session& s, const std::string& job_id,
                               const std::vector<NewTask>& tasks);
  // Holds the job's ready and running tasks; to be done before its row is held.
  static absl::Status HoldOpenTasks(Session& s, const std::string& job_id);
  static absl::Status DropOpenTasks(Session& s, const std::string& job_id, bool running_too);
  static absl::StatusOr<bool> HasRunningTask(Session& s, const std::string& job_id);
  static absl::Status FinishCancel(Session& s, const std::string& job_id);

  static absl::StatusOr<TaskRecord> ReadTask(Session& s, const std::string& task_id, bool hold);
  static absl::StatusOr<TaskRecord> HoldLeased(Session& s, const LeaseKey& key);
  static absl::Status WriteTask(Session& s, const TaskRecord& task);
  // Why a lease that a statement has not found is none: ABORTED.
  static absl::Status NotLeased(Session& s, const LeaseKey& key);
  // What the store knows of a worker that asks for a task.
  struct Asker {
    std::string holds;  // the task that this very request has got before, if it still runs
    WorkerStanding standing = WorkerStanding::kActive;
    bool others = false;  // there are other workers of its class
    bool known = false;   // its row need not be written again
  };
  absl::StatusOr<Asker> ReadAsker(Session& s, const LeaseQuery& query);
  // A page of the jobs that have ready tasks, in the order in which they are served; without tasks.
  static absl::StatusOr<std::vector<SchedulableJob>> ReadJobsToServe(Session& s, size_t offset);
  static absl::Status ReadOpenTasks(Session& s, SchedulableJob* job);
  // ABORTED: the task's job has moved so that the worker may not have it.
  absl::StatusOr<LeaseOutcome> TryLease(Session& s, const LeaseQuery& query);
  // One of the tasks of `job`, a list of one; nothing, with the reason, if there is none for it.
  absl::StatusOr<std::optional<TaskRecord>> LeaseFrom(Session& s, const LeaseQuery& query,
                                                      bool others, std::vector<SchedulableJob>* job,
                                                      std::string* idle_reason);
  absl::Status GrantLease(Session& s, const SchedulableJob& job, const LeaseQuery& query,
                          TaskRecord* task);
  absl::Status EndLease(Session& s, TaskRecord* task, FailureKind kind, const std::string& cause);
  absl::StatusOr<std::optional<Expired>> ReapTask(Session& s, const std::string& task_id);
  // Whether the worker that let the lease expire was at a later task: one death is one attempt.
  absl::StatusOr<bool> WasBeside(Session& s, const TaskRecord& task);
  // What the worker had leased before `task`, should it expire too.
  static absl::Status ExcuseEarlier(Session& s, const TaskRecord& task);
  static absl::Status WriteWorker(Session& s, const LeaseQuery& worker);
  // The task that this very request has got before, if it still holds it; its lease begins anew.
  absl::StatusOr<std::optional<TaskRecord>> Regrant(Session& s, const LeaseQuery& query,
                                                    const std::string& task_id);

  const std::unique_ptr<sql::Database> db_;
  const std::shared_ptr<ChangeSignal> changes_;
  const StorePolicy policy_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_SQL_JOB_STORE_H_
