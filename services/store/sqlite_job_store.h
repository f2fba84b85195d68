// JobStore on SQLite. Internal: use OpenSqliteJobStore of job_store.h.
#ifndef SHIFTADD_SERVICES_STORE_SQLITE_JOB_STORE_H_
#define SHIFTADD_SERVICES_STORE_SQLITE_JOB_STORE_H_

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "services/store/job_store.h"
#include "services/store/scheduling.h"
#include "services/store/sqlite_db.h"

namespace shiftadd {

// One connection behind one mutex: the work in a transaction is microseconds, the rest is the
// disk's.
class SqliteJobStore : public JobStore {
 public:
  SqliteJobStore(std::unique_ptr<sqlite::FileLock> lock, std::unique_ptr<sqlite::Database> db,
                 std::shared_ptr<const Clock> clock, const StorePolicy& policy);

  // Gives running leases one lease time from now.
  absl::Status ExtendLeases();

  absl::StatusOr<JobRecord> CreateJob(const NewJob& job) override;
  absl::StatusOr<std::optional<JobRecord>> FindRequest(const std::string& owner,
                                                       const std::string& request_id,
                                                       const std::string& fingerprint) override;
  absl::StatusOr<JobRecord> GetJob(const std::string& job_id) override;
  absl::StatusOr<std::vector<JobRecord>> ListJobs(int page_size, const std::string& page_token,
                                                  std::string* next_token) override;
  absl::StatusOr<std::vector<std::string>> JobsNeedingWork() override;
  absl::StatusOr<std::map<v1::JobState, int>> CountJobs() override;
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
  absl::StatusOr<std::map<std::pair<v1::TaskKind, TaskState>, int>> CountTasks() override;
  absl::StatusOr<LeaseOutcome> LeaseTask(const LeaseQuery& query) override;
  absl::StatusOr<Renewal> RenewLease(const LeaseKey& key, double progress) override;
  absl::StatusOr<bool> CompleteTask(const LeaseKey& key, const std::string& result,
                                    const std::vector<v1::JobEvent>& events) override;
  absl::StatusOr<bool> FailTask(const LeaseKey& key, FailureKind kind, const std::string& cause,
                                int code, const std::string& message) override;
  absl::StatusOr<std::vector<Expired>> ReapExpired() override;

  absl::Status TouchWorker(const LeaseQuery& worker) override;
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() override;

  uint64_t AwaitChange(uint64_t seen, absl::Duration timeout) override;
  void StopWaiting() override;

 private:
  // Everything below runs under mutex_, and what writes inside a transaction of its caller.
  int64_t Now() const { return absl::ToUnixMicros(clock_->Now()); }
  absl::Status Commit(sqlite::Transaction* transaction);

  absl::StatusOr<JobRecord> ReadJob(const std::string& job_id);
  absl::StatusOr<std::optional<JobRecord>> ReadRequest(const std::string& owner,
                                                       const std::string& request_id,
                                                       const std::string& fingerprint);
  absl::Status WriteJob(const JobRecord& record);
  absl::Status AddEvent(const std::string& job_id, v1::JobEvent event);
  absl::Status AddTaskEvent(const TaskRecord& task, const char* change, const std::string& detail);
  // Sets the state, its times and its event.
  absl::Status MoveJob(JobRecord* record, v1::JobState state);
  absl::Status AddTask(const std::string& job_id, const NewTask& task);
  absl::Status DropOpenTasks(const std::string& job_id, bool running_too);
  absl::StatusOr<bool> HasRunningTask(const std::string& job_id);
  absl::Status FinishCancel(const std::string& job_id);

  absl::StatusOr<TaskRecord> ReadTask(const std::string& task_id);
  absl::StatusOr<TaskRecord> ReadLeased(const LeaseKey& key);
  absl::Status WriteTask(const TaskRecord& task);
  absl::StatusOr<std::vector<SchedulableJob>> ReadSchedule();
  absl::Status GrantLease(TaskRecord* task, const LeaseQuery& query);
  absl::Status EndLease(TaskRecord* task, FailureKind kind, const std::string& cause);
  absl::StatusOr<bool> OthersCouldTake(const LeaseQuery& query);
  absl::Status WriteWorker(const LeaseQuery& worker);

  const std::unique_ptr<sqlite::FileLock> lock_;
  const std::unique_ptr<sqlite::Database> db_;
  const std::shared_ptr<const Clock> clock_;
  const StorePolicy policy_;
  std::mutex mutex_;

  std::mutex change_mutex_;
  std::condition_variable changed_;
  uint64_t changes_ = 1;
  bool stopped_ = false;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_SQLITE_JOB_STORE_H_
