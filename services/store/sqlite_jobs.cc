// The job half of SqliteJobStore: rows of jobs, their events, and waiting for changes.
#include <algorithm>
#include <chrono>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/store/sqlite_job_store.h"
#include "services/store/sqlite_schema.h"

namespace shiftadd {
namespace {

// "FAILED", as users know it.
std::string StateName(v1::JobState state) {
  return v1::JobState_Name(state).substr(sizeof("JOB_STATE_") - 1);
}

using sqlite::Statement;
using sqlite::Transaction;

constexpr char kJobColumns[] =
    "SELECT state, device_class, last_sequence, revision, cleaned, quantizer_version, document, "
    "number FROM jobs ";

google::protobuf::Timestamp ToProto(int64_t micros) {
  google::protobuf::Timestamp t;
  t.set_seconds(micros / 1'000'000);
  t.set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
  return t;
}

absl::StatusOr<JobRecord> ReadJobRow(Statement* row, int64_t* number) {
  JobRecord record;
  const auto state = static_cast<v1::JobState>(row->GetInt());
  const std::string device_class = row->GetText();
  const auto last_sequence = static_cast<uint64_t>(row->GetInt());
  record.revision = static_cast<uint64_t>(row->GetInt());
  record.cleaned = row->GetInt() != 0;
  record.quantizer_version = row->GetText();
  if (!record.job.ParseFromString(row->GetText())) {
    return absl::DataLossError("database: a job's document is damaged");
  }
  record.job.set_state(state);
  record.job.set_device_class(device_class);
  record.job.set_last_sequence(last_sequence);
  if (number != nullptr) *number = row->GetInt();
  return record;
}

std::string Document(v1::Job job) {
  job.clear_progress();
  job.clear_last_sequence();
  return job.SerializeAsString();
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> OpenSqliteJobStore(const std::string& path,
                                                             std::shared_ptr<const Clock> clock,
                                                             const StorePolicy& policy) {
  auto lock = sqlite::FileLock::Take(path);
  if (!lock.ok()) {
    if (lock.status().message().find("is locked") == absl::string_view::npos) return lock.status();
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is locked by another coordinator: stop it, or use another --data-dir"));
  }
  SA_ASSIGN_OR_RETURN(auto db, sqlite::Database::Open(path));
  SA_RETURN_IF_ERROR(Annotate(sqlite::Migrate(db.get(), sqlite::JobMigrations()), path));
  auto store =
      std::make_unique<SqliteJobStore>(*std::move(lock), std::move(db), std::move(clock), policy);
  SA_RETURN_IF_ERROR(Annotate(store->ExtendLeases(), path));
  return std::unique_ptr<JobStore>(std::move(store));
}

SqliteJobStore::SqliteJobStore(std::unique_ptr<sqlite::FileLock> lock,
                               std::unique_ptr<sqlite::Database> db,
                               std::shared_ptr<const Clock> clock, const StorePolicy& policy)
    : lock_(std::move(lock)), db_(std::move(db)), clock_(std::move(clock)), policy_(policy) {}

absl::Status SqliteJobStore::Commit(Transaction* transaction) {
  SA_RETURN_IF_ERROR(transaction->Commit());
  std::lock_guard<std::mutex> hold(change_mutex_);
  ++changes_;
  changed_.notify_all();
  return absl::OkStatus();
}

// --- Rows ----------------------------------------------------------------------------------------

absl::StatusOr<JobRecord> SqliteJobStore::ReadJob(const std::string& job_id) {
  Statement read(db_->get(), absl::StrCat(kJobColumns, "WHERE job_id = ?"));
  read.Text(job_id);
  SA_ASSIGN_OR_RETURN(const bool row, read.Step());
  if (!row) return absl::NotFoundError(absl::StrCat("job \"", job_id, "\" does not exist"));
  return ReadJobRow(&read, nullptr);
}

absl::StatusOr<std::optional<JobRecord>> SqliteJobStore::ReadRequest(
    const std::string& owner, const std::string& request_id, const std::string& fingerprint) {
  if (request_id.empty()) return std::nullopt;
  Statement find(db_->get(),
                 "SELECT job_id, fingerprint FROM jobs WHERE owner = ? AND request_id = ?");
  find.Text(owner).Text(request_id);
  SA_ASSIGN_OR_RETURN(const bool row, find.Step());
  if (!row) return std::nullopt;
  const std::string job_id = find.GetText();
  if (find.GetText() == fingerprint) return ReadJob(job_id);
  return absl::AlreadyExistsError(absl::StrCat(
      "request_id \"", request_id, "\" was used for another request (job ", job_id, ")"));
}

absl::Status SqliteJobStore::WriteJob(const JobRecord& record) {
  Statement write(db_->get(),
                  "UPDATE jobs SET state = ?, revision = ?, document = ? WHERE job_id = ?");
  return write.Int(record.job.state())
      .Int(static_cast<int64_t>(record.revision))
      .Blob(Document(record.job))
      .Text(record.job.job_id())
      .Run();
}

absl::Status SqliteJobStore::AddEvent(const std::string& job_id, v1::JobEvent event) {
  Statement count(db_->get(),
                  "UPDATE jobs SET last_sequence = last_sequence + 1 WHERE job_id = ? "
                  "RETURNING last_sequence");
  count.Text(job_id);
  SA_ASSIGN_OR_RETURN(const bool row, count.Step());
  if (!row) return absl::NotFoundError(absl::StrCat("job \"", job_id, "\" does not exist"));
  const int64_t sequence = count.GetInt();
  SA_RETURN_IF_ERROR(count.Run());  // an unfinished statement would hold up the commit
  event.set_job_id(job_id);
  event.set_sequence(static_cast<uint64_t>(sequence));
  *event.mutable_time() = ToProto(Now());
  Statement write(db_->get(), "INSERT INTO events (job_id, sequence, payload) VALUES (?, ?, ?)");
  return write.Text(job_id).Int(sequence).Blob(event.SerializeAsString()).Run();
}

absl::Status SqliteJobStore::MoveJob(JobRecord* record, v1::JobState state) {
  record->job.set_state(state);
  if (IsTerminal(state)) {
    *record->job.mutable_end_time() = ToProto(Now());
  } else {
    record->job.clear_end_time();
  }
  ++record->revision;
  SA_RETURN_IF_ERROR(WriteJob(*record));
  v1::JobEvent event;
  event.set_state(state);
  return AddEvent(record->job.job_id(), event);
}

// --- Verbs ---------------------------------------------------------------------------------------

absl::StatusOr<JobRecord> SqliteJobStore::CreateJob(const NewJob& job) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  SA_ASSIGN_OR_RETURN(std::optional<JobRecord> known,
                      ReadRequest(job.job.owner(), job.request_id, job.fingerprint));
  if (known.has_value()) return *std::move(known);
  v1::Job stored = job.job;
  *stored.mutable_create_time() = ToProto(Now());
  Statement write(db_->get(),
                  "INSERT INTO jobs (job_id, owner, request_id, fingerprint, state, priority, "
                  "any_device, device_class, last_sequence, revision, cleaned, "
                  "quantizer_version, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 1, 0, ?, ?)");
  SA_RETURN_IF_ERROR(write.Text(stored.job_id())
                         .Text(stored.owner())
                         .Text(job.request_id)
                         .Text(job.fingerprint)
                         .Int(stored.state())
                         .Int(stored.spec().priority())
                         .Int(stored.spec().any_device())
                         .Text(stored.device_class())
                         .Text(job.quantizer_version)
                         .Blob(Document(stored))
                         .Run());
  for (const NewTask& task : job.tasks) SA_RETURN_IF_ERROR(AddTask(stored.job_id(), task));
  v1::JobEvent event;
  event.set_state(stored.state());
  SA_RETURN_IF_ERROR(AddEvent(stored.job_id(), event));
  SA_ASSIGN_OR_RETURN(JobRecord record, ReadJob(stored.job_id()));
  SA_RETURN_IF_ERROR(Commit(transaction.get()));
  return record;
}

absl::StatusOr<std::optional<JobRecord>> SqliteJobStore::FindRequest(
    const std::string& owner, const std::string& request_id, const std::string& fingerprint) {
  std::lock_guard<std::mutex> hold(mutex_);
  return ReadRequest(owner, request_id, fingerprint);
}

absl::StatusOr<JobRecord> SqliteJobStore::GetJob(const std::string& job_id) {
  std::lock_guard<std::mutex> hold(mutex_);
  return ReadJob(job_id);
}

absl::StatusOr<std::vector<JobRecord>> SqliteJobStore::ListJobs(int page_size,
                                                                const std::string& page_token,
                                                                std::string* next_token) {
  std::lock_guard<std::mutex> hold(mutex_);
  int64_t before = INT64_MAX;
  if (!page_token.empty() && !absl::SimpleAtoi(page_token, &before)) {
    return absl::InvalidArgumentError(
        "page_token: expected the next_page_token of an earlier answer");
  }
  Statement read(db_->get(),
                 absl::StrCat(kJobColumns, "WHERE number < ? ORDER BY number DESC LIMIT ?"));
  read.Int(before).Int(page_size + 1);
  std::vector<JobRecord> jobs;
  next_token->clear();
  int64_t number = 0;
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (!row) return jobs;
    if (static_cast<int>(jobs.size()) == page_size) {
      *next_token = absl::StrCat(number);
      return jobs;
    }
    SA_ASSIGN_OR_RETURN(JobRecord record, ReadJobRow(&read, &number));
    jobs.push_back(std::move(record));
  }
}

absl::StatusOr<std::vector<std::string>> SqliteJobStore::JobsNeedingWork() {
  std::lock_guard<std::mutex> hold(mutex_);
  Statement read(db_->get(),
                 "SELECT job_id FROM jobs WHERE state NOT IN (?, ?, ?) "
                 "OR (cleaned = 0 AND state IN (?, ?)) ORDER BY number");
  read.Int(v1::JOB_STATE_SUCCEEDED).Int(v1::JOB_STATE_FAILED).Int(v1::JOB_STATE_CANCELLED);
  read.Int(v1::JOB_STATE_SUCCEEDED).Int(v1::JOB_STATE_CANCELLED);
  std::vector<std::string> jobs;
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (!row) return jobs;
    jobs.push_back(read.GetText());
  }
}

absl::StatusOr<std::map<v1::JobState, int>> SqliteJobStore::CountJobs() {
  std::lock_guard<std::mutex> hold(mutex_);
  Statement read(db_->get(), "SELECT state, COUNT(*) FROM jobs GROUP BY state");
  std::map<v1::JobState, int> counts;
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (!row) return counts;
    const auto state = static_cast<v1::JobState>(read.GetInt());
    counts[state] = static_cast<int>(read.GetInt());
  }
}

absl::StatusOr<JobRecord> SqliteJobStore::UpdateJob(const JobUpdate& update) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  const std::string& job_id = update.job.job_id();
  SA_ASSIGN_OR_RETURN(JobRecord record, ReadJob(job_id));
  if (record.revision != update.expected_revision) {
    return absl::AbortedError(absl::StrCat("job ", job_id, ": revision found ", record.revision,
                                           ", expected ", update.expected_revision));
  }
  if (update.drop_open_tasks) SA_RETURN_IF_ERROR(DropOpenTasks(job_id, /*running_too=*/true));
  for (const NewTask& task : update.tasks) SA_RETURN_IF_ERROR(AddTask(job_id, task));
  for (const v1::JobEvent& event : update.events) SA_RETURN_IF_ERROR(AddEvent(job_id, event));
  const v1::JobState before = record.job.state();
  record.job = update.job;
  if (update.job.state() != before) {
    SA_RETURN_IF_ERROR(MoveJob(&record, update.job.state()));
  } else {
    ++record.revision;
    SA_RETURN_IF_ERROR(WriteJob(record));
  }
  SA_ASSIGN_OR_RETURN(record, ReadJob(job_id));
  SA_RETURN_IF_ERROR(Commit(transaction.get()));
  return record;
}

absl::StatusOr<JobRecord> SqliteJobStore::CancelJob(const std::string& job_id) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  SA_ASSIGN_OR_RETURN(JobRecord record, ReadJob(job_id));
  const v1::JobState state = record.job.state();
  if (state == v1::JOB_STATE_CANCELLING || state == v1::JOB_STATE_CANCELLED) return record;
  if (IsTerminal(state)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", job_id, " has ended (", StateName(state), "): there is nothing to cancel"));
  }
  SA_RETURN_IF_ERROR(DropOpenTasks(job_id, /*running_too=*/false));
  record.job.set_resume_state(state);
  SA_RETURN_IF_ERROR(MoveJob(&record, v1::JOB_STATE_CANCELLING));
  SA_RETURN_IF_ERROR(FinishCancel(job_id));
  SA_ASSIGN_OR_RETURN(record, ReadJob(job_id));
  SA_RETURN_IF_ERROR(Commit(transaction.get()));
  return record;
}

absl::Status SqliteJobStore::FinishCancel(const std::string& job_id) {
  SA_ASSIGN_OR_RETURN(JobRecord record, ReadJob(job_id));
  if (record.job.state() != v1::JOB_STATE_CANCELLING) return absl::OkStatus();
  SA_ASSIGN_OR_RETURN(const bool running, HasRunningTask(job_id));
  if (running) return absl::OkStatus();
  return MoveJob(&record, v1::JOB_STATE_CANCELLED);
}

absl::StatusOr<JobRecord> SqliteJobStore::RetryJob(const std::string& job_id) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  SA_ASSIGN_OR_RETURN(JobRecord record, ReadJob(job_id));
  if (record.job.state() != v1::JOB_STATE_FAILED) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", job_id, ": state found ", StateName(record.job.state()), ", expected FAILED"));
  }
  Statement reset(db_->get(),
                  "UPDATE tasks SET state = ?, attempts = '{}', lost_by = '', error = '', "
                  "error_code = 0, progress = 0 WHERE job_id = ? AND state IN (?, ?)");
  SA_RETURN_IF_ERROR(reset.Int(static_cast<int>(TaskState::kReady))
                         .Text(job_id)
                         .Int(static_cast<int>(TaskState::kFailed))
                         .Int(static_cast<int>(TaskState::kCancelled))
                         .Run());
  const v1::JobState resume = record.job.resume_state();
  record.job.clear_resume_state();
  record.job.clear_error();
  SA_RETURN_IF_ERROR(
      MoveJob(&record, resume == v1::JOB_STATE_UNSPECIFIED ? v1::JOB_STATE_QUEUED : resume));
  SA_ASSIGN_OR_RETURN(record, ReadJob(job_id));
  SA_RETURN_IF_ERROR(Commit(transaction.get()));
  return record;
}

absl::Status SqliteJobStore::MarkCleaned(const std::string& job_id) {
  std::lock_guard<std::mutex> hold(mutex_);
  Statement write(db_->get(), "UPDATE jobs SET cleaned = 1 WHERE job_id = ?");
  return write.Text(job_id).Run();
}

absl::Status SqliteJobStore::DeleteJob(const std::string& job_id) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  SA_ASSIGN_OR_RETURN(const JobRecord record, ReadJob(job_id));
  if (!IsTerminal(record.job.state())) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", job_id, " is ", StateName(record.job.state()), ": cancel it before deleting it"));
  }
  for (const char* table : {"events", "tasks", "jobs"}) {
    Statement erase(db_->get(), absl::StrCat("DELETE FROM ", table, " WHERE job_id = ?"));
    SA_RETURN_IF_ERROR(erase.Text(job_id).Run());
  }
  return Commit(transaction.get());
}

// --- Events and changes --------------------------------------------------------------------------

absl::Status SqliteJobStore::AppendEvents(const std::string& job_id,
                                          const std::vector<v1::JobEvent>& events) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  SA_ASSIGN_OR_RETURN(const JobRecord record, ReadJob(job_id));
  // Streams end with the event of a terminal state: nothing may follow it.
  if (IsTerminal(record.job.state())) {
    return absl::FailedPreconditionError(absl::StrCat("job ", job_id, " has ended"));
  }
  for (const v1::JobEvent& event : events) SA_RETURN_IF_ERROR(AddEvent(job_id, event));
  return Commit(transaction.get());
}

absl::StatusOr<std::vector<v1::JobEvent>> SqliteJobStore::Events(const std::string& job_id,
                                                                 uint64_t from_sequence,
                                                                 int limit) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_RETURN_IF_ERROR(ReadJob(job_id).status());
  const uint64_t from = std::min<uint64_t>(from_sequence, INT64_MAX);
  Statement read(db_->get(),
                 "SELECT payload FROM events WHERE job_id = ? AND sequence >= ? "
                 "ORDER BY sequence LIMIT ?");
  read.Text(job_id).Int(static_cast<int64_t>(from)).Int(limit);
  std::vector<v1::JobEvent> events;
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (!row) return events;
    if (!events.emplace_back().ParseFromString(read.GetText())) {
      return absl::DataLossError("database: an event is damaged");
    }
  }
}

uint64_t SqliteJobStore::AwaitChange(uint64_t seen, absl::Duration timeout) {
  std::unique_lock<std::mutex> hold(change_mutex_);
  changed_.wait_for(hold, absl::ToChronoMilliseconds(timeout),
                    [&] { return stopped_ || changes_ != seen; });
  return changes_;
}

void SqliteJobStore::StopWaiting() {
  std::lock_guard<std::mutex> hold(change_mutex_);
  stopped_ = true;
  changed_.notify_all();
}

}  // namespace shiftadd
