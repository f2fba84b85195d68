// Jobs, their tasks, leases and events: everything a coordinator remembers.
//
// The interface is made of transactions, not of rows: each method is one, and either happens wholly
// or not at all. Planning is not done here: a coordinator reads a job and its tasks, decides, and
// applies a JobUpdate that names the revision it has read. Whatever is lost in a crash is decided
// again from the same rows.
#ifndef SHIFTADD_SERVICES_STORE_JOB_STORE_H_
#define SHIFTADD_SERVICES_STORE_JOB_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/base/clock.h"
#include "shiftadd/v1/job.pb.h"
#include "shiftadd/v1/task.pb.h"

namespace shiftadd {

enum class TaskState { kReady = 1, kRunning = 2, kDone = 3, kFailed = 4, kCancelled = 5 };
// ready, running, done, failed, cancelled.
const char* TaskStateName(TaskState state);

bool IsTerminal(v1::JobState state);

// How many tasks there are, by kind and state.
using TaskCounts = std::map<std::pair<v1::TaskKind, TaskState>, int>;

struct JobRecord {
  v1::Job job;            // state, device_class and last_sequence as they are now; no progress
  uint64_t revision = 0;  // moves with every JobUpdate, cancel and retry
  bool cleaned = false;   // its scratch is gone
  // That made, or will make, its candidates; empty for jobs of coordinators that did not say.
  std::string quantizer_version;
};

struct JobMark {
  std::string job_id;
  uint64_t revision = 0, last_sequence = 0;
};

// The cause of a lease that was not renewed.
inline constexpr char kExpiredCause[] = "expired";
// The same, of a task that had been computed and was being stored while its worker, which died, was
// at a later one.
inline constexpr char kExpiredBesideCause[] = "expired beside another task";

// Why it counts as no attempt if a lease ends that is not renewed any more.
enum class LeaseExcuse {
  kNone = 0,
  kAway = 1,    // it was prolonged because the coordinator or the store was away
  kBeside = 2,  // its worker has lost the lease of a later task, which it was working on
};

// One attempt at a task that was lost.
struct TaskLoss {
  std::string worker;
  std::string cause;  // expired, or the name of a canonical code
  std::string error;
};

struct TaskRecord {
  std::string task_id;
  std::string job_id;
  v1::TaskKind kind = v1::TASK_KIND_UNSPECIFIED;
  uint32_t ordinal = 0;  // unique among the tasks of a kind; PROFILE: the block
  uint32_t lane = 0;     // tasks of one lane are best done by one worker
  int rank = 0;          // lower first within a job
  TaskState state = TaskState::kReady;
  uint64_t lease_epoch = 0;
  absl::Time deadline = absl::InfinitePast();  // of the lease, while running
  std::string worker;                          // that holds or last held it
  std::map<std::string, int> attempts;         // lost ones, by cause
  std::vector<TaskLoss> losses;                // the same, the oldest first; at most the last 16
  LeaseExcuse excuse = LeaseExcuse::kNone;     // until it is renewed
  double progress = 0;                         // 0..1, as last renewed
  absl::Time lease_time = absl::InfinitePast();
  absl::Time end_time = absl::InfinitePast();
  int error_code = 0;  // of the last failure
  std::string error;
  std::string payload;  // serialized v1::Task
  std::string result;   // serialized v1::TaskResult, once done

  // How many of the lost attempts the task has to answer for. That a worker went away is not the
  // task's fault until another one does so over the same task, and never that of a task that it had
  // done with: this excuse is good once, and workers close a task that was lost before they go on.
  int lost_attempts() const;
  // Done in another job.
  bool inherited() const { return state == TaskState::kDone && lease_epoch == 0; }
};

struct NewTask {
  v1::TaskKind kind = v1::TASK_KIND_UNSPECIFIED;
  uint32_t ordinal = 0;
  uint32_t lane = 0;
  int rank = 0;
  std::string payload;
  // Not empty: taken over from another job, done by `worker`. It was never leased in this job, so
  // its lease_epoch is and stays 0.
  std::string result;
  std::string worker;
};

struct NewJob {
  v1::Job job;              // job_id, owner, spec, state, …; create_time is set by the store
  std::string request_id;   // may be empty
  std::string fingerprint;  // of the request: the same request_id must come with the same one
  std::vector<NewTask> tasks;
  std::string quantizer_version;
};

// One step of a job. `events` get their job, time and sequence from the store; if the state
// changes, an event that says so follows them.
struct JobUpdate {
  v1::Job job;
  uint64_t expected_revision = 0;
  std::vector<NewTask> tasks;    // one that exists already (kind, ordinal) is left as it is
  bool drop_open_tasks = false;  // ready and running ones become cancelled; their leases are void
  std::vector<v1::JobEvent> events;
};

struct LeaseQuery {
  std::string worker;
  std::string device_class;
  uint64_t memory_bytes = 0;
  std::string version;
  std::string held_job;  // the worker holds the input of PROFILE task `held_ordinal` of this job
  uint32_t held_ordinal = 0;
  // Not empty: names this request. Repeated by its worker, since the answer may have been lost, it
  // gets the task that it got before, if it still holds that.
  std::string request_id;
};

struct LeaseOutcome {
  std::optional<TaskRecord> task;
  std::string idle_reason;  // without a task
  bool repeated = false;    // an earlier request of the same name has got it
  bool none_ready = false;  // nobody would have got one
};

// Names a lease.
struct LeaseKey {
  std::string task_id;
  std::string worker;
  uint64_t epoch = 0;
};

struct Renewal {
  std::string job_id;
  absl::Time deadline;
  bool cancel = false;  // the job is being cancelled, or the worker drained: it gives the task back
};

// What an operator has said of a worker; kept until nobody has heard of it for an hour.
enum class WorkerStanding {
  kActive = 0,
  kCordoned = 1,  // ends its task and gets no other
  kDraining = 2,  // gives its task back, which counts as no attempt, and gets no other
};

enum class FailureKind {
  kReleased,  // given back; counts as no attempt
  kRetry,     // counts; the task fails once its attempts are used up
  kFatal,     // the task fails at once
};

struct Expired {
  std::string task_id;
  std::string job_id;
  v1::TaskKind kind;
  std::string worker;
  bool failed;  // that was its last attempt
};

struct WorkerRecord {
  std::string worker_id;
  std::string device_class;
  uint64_t memory_bytes = 0;
  std::string version;
  absl::Time last_seen;
  std::string task_id;  // that it holds; empty: none
  v1::TaskKind task_kind = v1::TASK_KIND_UNSPECIFIED;
  WorkerStanding standing = WorkerStanding::kActive;
};

struct StorePolicy {
  absl::Duration lease = absl::Seconds(30);
  int max_attempts = 4;
  // How often waiters look for changes of other processes that nobody told them of.
  absl::Duration poll = absl::Seconds(5);
};

// Thread-safe. Leases end by the store's own clock, never by a caller's. Every method may also
// answer UNAVAILABLE (busy, out of reach: try again; the change may have been made all the same),
// RESOURCE_EXHAUSTED (no space) or DATA_LOSS (the database is damaged).
class JobStore {
 public:
  virtual ~JobStore() = default;

  // --- Jobs ---
  // The same owner, request_id and fingerprint return the job that exists; ALREADY_EXISTS if the
  // fingerprint differs.
  virtual absl::StatusOr<JobRecord> CreateJob(const NewJob& job) = 0;
  // The job that CreateJob would return for the same three; nothing if it would make one.
  virtual absl::StatusOr<std::optional<JobRecord>> FindRequest(const std::string& owner,
                                                               const std::string& request_id,
                                                               const std::string& fingerprint) = 0;
  virtual absl::StatusOr<JobRecord> GetJob(const std::string& job_id) = 0;
  // Newest first; `next_token` is empty on the last page. INVALID_ARGUMENT for a token that is
  // none.
  virtual absl::StatusOr<std::vector<JobRecord>> ListJobs(int page_size,
                                                          const std::string& page_token,
                                                          std::string* next_token) = 0;
  // Jobs that are not terminal, and terminal ones (but FAILED) whose scratch is still there. Oldest
  // first.
  virtual absl::StatusOr<std::vector<std::string>> JobsNeedingWork() = 0;
  // Of the same jobs, in the same order. While a job's mark stands still, nothing has happened to
  // it but renewals.
  virtual absl::StatusOr<std::vector<JobMark>> MarksOfJobsNeedingWork() = 0;
  // The sequence number of each job's last event; those that do not exist are left out.
  virtual absl::StatusOr<std::map<std::string, uint64_t>> LastSequences(
      const std::vector<std::string>& job_ids) = 0;
  virtual absl::StatusOr<std::map<v1::JobState, int>> CountJobs() = 0;
  // FAILED ones, newest first.
  virtual absl::StatusOr<std::vector<JobRecord>> ListFailedJobs(int limit) = 0;
  // ABORTED if the job has moved since `expected_revision`.
  virtual absl::StatusOr<JobRecord> UpdateJob(const JobUpdate& update) = 0;
  // Ready tasks are cancelled; the job is CANCELLED when no lease is left. OK if it is so already;
  // FAILED_PRECONDITION if it has ended otherwise.
  virtual absl::StatusOr<JobRecord> CancelJob(const std::string& job_id) = 0;
  // FAILED jobs go back to resume_state; their failed and cancelled tasks become ready with fresh
  // attempts.
  virtual absl::StatusOr<JobRecord> RetryJob(const std::string& job_id) = 0;
  virtual absl::Status MarkCleaned(const std::string& job_id) = 0;
  // Terminal jobs only.
  virtual absl::Status DeleteJob(const std::string& job_id) = 0;

  // --- Events ---
  virtual absl::Status AppendEvents(const std::string& job_id,
                                    const std::vector<v1::JobEvent>& events) = 0;
  // From `from_sequence` on (at least 1), at most `limit`.
  virtual absl::StatusOr<std::vector<v1::JobEvent>> Events(const std::string& job_id,
                                                           uint64_t from_sequence, int limit) = 0;

  // --- Tasks ---
  // By kind, then ordinal. Without bytes: payload and result are left out.
  virtual absl::StatusOr<std::vector<TaskRecord>> ListTasks(const std::string& job_id,
                                                            bool with_bytes) = 0;
  virtual absl::StatusOr<TaskRecord> GetTask(const std::string& task_id) = 0;
  virtual absl::StatusOr<TaskCounts> CountTasks() = 0;
  virtual absl::StatusOr<TaskCounts> CountTasksOf(const std::string& job_id) = 0;
  // Picks by PickTask (scheduling.h), pins the job's device class, and remembers the worker.
  virtual absl::StatusOr<LeaseOutcome> LeaseTask(const LeaseQuery& query) = 0;
  // ABORTED if the lease is not the task's present one.
  virtual absl::StatusOr<Renewal> RenewLease(const LeaseKey& key, double progress) = 0;
  // True: accepted now, and `events` written with it. False: the exact repeat of what was accepted
  // before. ABORTED: the lease is not the present one.
  virtual absl::StatusOr<bool> CompleteTask(const LeaseKey& key, const std::string& result,
                                            const std::vector<v1::JobEvent>& events) = 0;
  // ABORTED as above. True if the task has failed for good.
  virtual absl::StatusOr<bool> FailTask(const LeaseKey& key, FailureKind kind,
                                        const std::string& cause, int code,
                                        const std::string& message) = 0;
  // Ends every lease whose deadline has passed. When the store comes back from where it could not
  // be reached, running leases first get one lease time of grace.
  virtual absl::StatusOr<std::vector<Expired>> ReapExpired() = 0;

  // --- Workers ---
  virtual absl::Status TouchWorker(const LeaseQuery& worker) = 0;
  // NOT_FOUND for one that has not been seen.
  virtual absl::Status SetStanding(const std::string& worker, WorkerStanding standing) = 0;
  // Seen within the last hour, by name.
  virtual absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() = 0;

  // --- Changes ---
  // The store's time, as far as it is known without asking.
  virtual absl::Time Now() = 0;
  // Waits until something was committed after `seen` (a former answer; 0 at first), here or by
  // another process (one commit may be told of twice), or `timeout` of real time.
  virtual uint64_t AwaitChange(uint64_t seen, absl::Duration timeout) = 0;
  // The same, but only for commits after which a worker that found no task may find one: it has
  // numbers of its own. What only time brings is not told of.
  virtual uint64_t AwaitWork(uint64_t seen, absl::Duration timeout) = 0;
  // Ends every wait at once, now and later.
  virtual void StopWaiting() = 0;
};

// For who compares times with those that a store has written. The store must outlive it.
class StoreClock : public Clock {
 public:
  explicit StoreClock(JobStore* store) : store_(store) {}
  absl::Time Now() const override { return store_->Now(); }

 private:
  JobStore* const store_;
};

// A database file (made if absent) in WAL mode with synchronous=FULL. One process at a time:
// FAILED_PRECONDITION "locked by another coordinator" otherwise; the same if the file's schema is
// newer than this program. Running leases get one lease time of grace from now.
absl::StatusOr<std::unique_ptr<JobStore>> OpenSqliteJobStore(const std::string& path,
                                                             std::shared_ptr<const Clock> clock,
                                                             const StorePolicy& policy = {});

// A database of PostgreSQL, shared by any number of coordinators; `url` as for
// sql::Postgres::Connect. UNAVAILABLE: it cannot be reached; FAILED_PRECONDITION as above. `clock`
// null: the server's. Running leases get their grace here too.
absl::StatusOr<std::unique_ptr<JobStore>> OpenPostgresJobStore(
    const std::string& url, std::shared_ptr<const Clock> clock = nullptr,
    const StorePolicy& policy = {});

// A copy of the SQLite file at `path`, consistent, also while a coordinator works with it: a job
// goes on from it as if the coordinator had been killed at that moment. ALREADY_EXISTS if `copy`
// does.
absl::Status BackUpSqliteJobStore(const std::string& path, const std::string& copy);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_JOB_STORE_H_
