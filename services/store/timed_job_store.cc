#include "services/store/timed_job_store.h"

#include <chrono>
#include <utility>

namespace shiftadd {
namespace {

absl::StatusCode CodeOf(const absl::Status& status) { return status.code(); }
template <typename T>
absl::StatusCode CodeOf(const absl::StatusOr<T>& value) {
  return value.status().code();
}

class TimedJobStore : public JobStore {
 public:
  TimedJobStore(std::unique_ptr<JobStore> store, StoreTimer timer)
      : store_(std::move(store)), timer_(std::move(timer)) {}

  absl::StatusOr<JobRecord> CreateJob(const NewJob& job) override {
    return Time("CreateJob", [&] { return store_->CreateJob(job); });
  }
  absl::StatusOr<std::optional<JobRecord>> FindRequest(const std::string& owner,
                                                       const std::string& request_id,
                                                       const std::string& fingerprint) override {
    return Time("FindRequest", [&] { return store_->FindRequest(owner, request_id, fingerprint); });
  }
  absl::StatusOr<JobRecord> GetJob(const std::string& job_id) override {
    return Time("GetJob", [&] { return store_->GetJob(job_id); });
  }
  absl::StatusOr<std::vector<JobRecord>> ListJobs(int page_size, const std::string& page_token,
                                                  std::string* next_token) override {
    return Time("ListJobs", [&] { return store_->ListJobs(page_size, page_token, next_token); });
  }
  absl::StatusOr<std::vector<std::string>> JobsNeedingWork() override {
    return Time("JobsNeedingWork", [&] { return store_->JobsNeedingWork(); });
  }
  absl::StatusOr<std::vector<JobMark>> MarksOfJobsNeedingWork() override {
    return Time("MarksOfJobsNeedingWork", [&] { return store_->MarksOfJobsNeedingWork(); });
  }
  absl::StatusOr<std::map<std::string, uint64_t>> LastSequences(
      const std::vector<std::string>& job_ids) override {
    return Time("LastSequences", [&] { return store_->LastSequences(job_ids); });
  }
  absl::StatusOr<std::map<v1::JobState, int>> CountJobs() override {
    return Time("CountJobs", [&] { return store_->CountJobs(); });
  }
  absl::StatusOr<std::vector<JobRecord>> ListFailedJobs(int limit) override {
    return Time("ListFailedJobs", [&] { return store_->ListFailedJobs(limit); });
  }
  absl::StatusOr<JobRecord> UpdateJob(const JobUpdate& update) override {
    return Time("UpdateJob", [&] { return store_->UpdateJob(update); });
  }
  absl::StatusOr<JobRecord> CancelJob(const std::string& job_id) override {
    return Time("CancelJob", [&] { return store_->CancelJob(job_id); });
  }
  absl::StatusOr<JobRecord> RetryJob(const std::string& job_id) override {
    return Time("RetryJob", [&] { return store_->RetryJob(job_id); });
  }
  absl::Status MarkCleaned(const std::string& job_id) override {
    return Time("MarkCleaned", [&] { return store_->MarkCleaned(job_id); });
  }
  absl::Status DeleteJob(const std::string& job_id) override {
    return Time("DeleteJob", [&] { return store_->DeleteJob(job_id); });
  }
  absl::Status AppendEvents(const std::string& job_id,
                            const std::vector<v1::JobEvent>& events) override {
    return Time("AppendEvents", [&] { return store_->AppendEvents(job_id, events); });
  }
  absl::StatusOr<std::vector<v1::JobEvent>> Events(const std::string& job_id,
                                                   uint64_t from_sequence, int limit) override {
    return Time("Events", [&] { return store_->Events(job_id, from_sequence, limit); });
  }
  absl::StatusOr<std::vector<TaskRecord>> ListTasks(const std::string& job_id,
                                                    bool with_bytes) override {
    return Time("ListTasks", [&] { return store_->ListTasks(job_id, with_bytes); });
  }
  absl::StatusOr<TaskRecord> GetTask(const std::string& task_id) override {
    return Time("GetTask", [&] { return store_->GetTask(task_id); });
  }
  absl::StatusOr<TaskCounts> CountTasks() override {
    return Time("CountTasks", [&] { return store_->CountTasks(); });
  }
  absl::StatusOr<TaskCounts> CountTasksOf(const std::string& job_id) override {
    return Time("CountTasksOf", [&] { return store_->CountTasksOf(job_id); });
  }
  absl::StatusOr<LeaseOutcome> LeaseTask(const LeaseQuery& query) override {
    return Time("LeaseTask", [&] { return store_->LeaseTask(query); });
  }
  absl::StatusOr<Renewal> RenewLease(const LeaseKey& key, double progress) override {
    return Time("RenewLease", [&] { return store_->RenewLease(key, progress); });
  }
  absl::StatusOr<bool> CompleteTask(const LeaseKey& key, const std::string& result,
                                    const std::vector<v1::JobEvent>& events) override {
    return Time("CompleteTask", [&] { return store_->CompleteTask(key, result, events); });
  }
  absl::StatusOr<bool> FailTask(const LeaseKey& key, FailureKind kind, const std::string& cause,
                                int code, const std::string& message) override {
    return Time("FailTask", [&] { return store_->FailTask(key, kind, cause, code, message); });
  }
  absl::StatusOr<std::vector<Expired>> ReapExpired() override {
    return Time("ReapExpired", [&] { return store_->ReapExpired(); });
  }
  absl::Status TouchWorker(const LeaseQuery& worker) override {
    return Time("TouchWorker", [&] { return store_->TouchWorker(worker); });
  }
  absl::Status SetStanding(const std::string& worker, WorkerStanding standing) override {
    return Time("SetStanding", [&] { return store_->SetStanding(worker, standing); });
  }
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() override {
    return Time("ListWorkers", [&] { return store_->ListWorkers(); });
  }
  absl::Time Now() override { return store_->Now(); }
  uint64_t AwaitChange(uint64_t seen, absl::Duration timeout) override {
    return store_->AwaitChange(seen, timeout);
  }
  uint64_t AwaitWork(uint64_t seen, absl::Duration timeout) override {
    return store_->AwaitWork(seen, timeout);
  }
  void StopWaiting() override { store_->StopWaiting(); }

 private:
  template <typename F>
  auto Time(const char* method, F f) -> decltype(f()) {
    const auto start = std::chrono::steady_clock::now();
    auto answer = f();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    timer_(method, CodeOf(answer), taken.count());
    return answer;
  }

  const std::unique_ptr<JobStore> store_;
  const StoreTimer timer_;
};

}  // namespace

std::unique_ptr<JobStore> NewTimedJobStore(std::unique_ptr<JobStore> store, StoreTimer timer) {
  return std::make_unique<TimedJobStore>(std::move(store), std::move(timer));
}

}  // namespace shiftadd
