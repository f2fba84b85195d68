// The job half of SqlJobStore: rows of jobs, their events, and waiting for changes.
#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/status_macros.h"
#include "services/store/sql_job_store.h"

namespace shiftadd {
namespace {

// "FAILED", as users know it.
std::string StateName(v1::JobState state) {
  return v1::JobState_Name(state).substr(sizeof("JOB_STATE_") - 1);
}

using sql::Session;
using sql::Statement;

constexpr size_t kIdsAtATime = 256;
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

SqlJobStore::SqlJobStore(std::unique_ptr<sql::Database> db, std::shared_ptr<ChangeSignal> changes,
                         const StorePolicy& policy)
    : db_(std::move(db)), changes_(std::move(changes)), policy_(policy) {}

// --- Rows ----------------------------------------------------------------------------------------

absl::StatusOr<JobRecord> SqlJobStore::ReadJob(Session& s, const std::string& job_id, bool hold) {
  Statement read(s, absl::StrCat(kJobColumns, "WHERE job_id = ?",
                                 hold ? s.For(sql::Lock::kWait) : std::string()));
  read.Text(job_id);
  SA_ASSIGN_OR_RETURN(const bool row, read.Step());
  if (!row) return absl::NotFoundError(absl::StrCat("job \"", job_id, "\" does not exist"));
  return ReadJobRow(&read, nullptr);
}

absl::StatusOr<std::optional<JobRecord>> SqlJobStore::ReadRequest(Session& s,
                                                                  const std::string& owner,
                                                                  const std::string& request_id,
                                                                  const std::string& fingerprint) {
  if (request_id.empty()) return std::nullopt;
  Statement find(s, "SELECT job_id, fingerprint FROM jobs WHERE owner = ? AND request_id = ?");
  find.Text(owner).Text(request_id);
  SA_ASSIGN_OR_RETURN(const bool row, find.Step());
  if (!row) return std::nullopt;
  const std::string job_id = find.GetText();
  if (find.GetText() == fingerprint) return ReadJob(s, job_id, /*hold=*/false);
  return absl::AlreadyExistsError(absl::StrCat(
      "request_id \"", request_id, "\" was used for another request (job ", job_id, ")"));
}

absl::Status SqlJobStore::WriteJob(Session& s, const JobRecord& record) {
  Statement write(s, "UPDATE jobs SET state = ?, revision = ?, document = ? WHERE job_id = ?");
  return write.Int(record.job.state())
      .Int(static_cast<int64_t>(record.revision))
      .Blob(Document(record.job))
      .Text(record.job.job_id())
      .Run();
}

absl::StatusOr<v1::JobState> SqlJobStore::AddEvents(Session& s, const std::string& job_id,
                                                    const std::vector<v1::JobEvent>& events) {
  Statement count(s,
                  "UPDATE jobs SET last_sequence = last_sequence + ? WHERE job_id = ? "
                  "RETURNING last_sequence, state");
  const auto added = static_cast<int64_t>(events.size());
  count.Int(added).Text(job_id);
  SA_ASSIGN_OR_RETURN(const bool row, count.Step());
  if (!row) return absl::NotFoundError(absl::StrCat("job \"", job_id, "\" does not exist"));
  const int64_t last = count.GetInt();
  const auto state = static_cast<v1::JobState>(count.GetInt());
  SA_RETURN_IF_ERROR(count.Run());  // an unfinished statement would hold up the commit
  SA_RETURN_IF_ERROR(WriteEvents(s, job_id, last - added + 1, events));
  return state;
}

absl::Status SqlJobStore::PinAndAddEvent(Session& s, const std::string& job_id,
                                         const std::string& device_class,
                                         const v1::JobEvent& event) {
  // Since the schedule was read another worker may have pinned the job to its class.
  Statement pin(s,
                "UPDATE jobs SET last_sequence = last_sequence + 1, device_class = "
                "CASE WHEN device_class = '' THEN ? ELSE device_class END WHERE job_id = ? "
                "AND (any_device <> 0 OR device_class = '' OR device_class = ?) "
                "RETURNING last_sequence");
  pin.Text(device_class).Text(job_id).Text(device_class);
  SA_ASSIGN_OR_RETURN(const bool row, pin.Step());
  if (!row) return absl::AbortedError("the job has been pinned to another device class");
  const int64_t sequence = pin.GetInt();
  SA_RETURN_IF_ERROR(pin.Run());
  return WriteEvents(s, job_id, sequence, {event});
}

absl::Status SqlJobStore::WriteEvents(Session& s, const std::string& job_id, int64_t sequence,
                                      const std::vector<v1::JobEvent>& events) {
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  s.Announce();
  for (size_t first = 0; first < events.size(); first += sql::kRowsAtATime) {
    const size_t count = std::min(sql::kRowsAtATime, events.size() - first);
    Statement write(s, absl::StrCat("INSERT INTO events (job_id, sequence, payload) VALUES ",
                                    sql::ValueRows("(?, ?, ?)", count)));
    for (size_t i = first; i < first + count; ++i) {
      v1::JobEvent event = events[i];
      event.set_job_id(job_id);
      event.set_sequence(static_cast<uint64_t>(sequence));
      *event.mutable_time() = ToProto(now);
      write.Text(job_id).Int(sequence++).Blob(event.SerializeAsString());
    }
    SA_RETURN_IF_ERROR(write.Run());
  }
  return absl::OkStatus();
}

absl::Status SqlJobStore::MoveJob(Session& s, JobRecord* record, v1::JobState state) {
  record->job.set_state(state);
  if (IsTerminal(state)) {
    SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
    *record->job.mutable_end_time() = ToProto(now);
  } else {
    record->job.clear_end_time();
  }
  ++record->revision;
  SA_RETURN_IF_ERROR(WriteJob(s, *record));
  v1::JobEvent event;
  event.set_state(state);
  return AddEvents(s, record->job.job_id(), {event}).status();
}

// --- Verbs ---------------------------------------------------------------------------------------

absl::StatusOr<JobRecord> SqlJobStore::CreateJob(const NewJob& job) {
  return sql::Write(db_.get(), [&](Session& s) -> absl::StatusOr<JobRecord> {
    SA_ASSIGN_OR_RETURN(std::optional<JobRecord> known,
                        ReadRequest(s, job.job.owner(), job.request_id, job.fingerprint));
    if (known.has_value()) return *std::move(known);
    return InsertJob(s, job);
  });
}

absl::StatusOr<JobRecord> SqlJobStore::InsertJob(Session& s, const NewJob& job) {
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  v1::Job stored = job.job;
  *stored.mutable_create_time() = ToProto(now);
  Statement write(s,
                  "INSERT INTO jobs (job_id, owner, request_id, fingerprint, state, priority, "
                  "any_device, device_class, last_sequence, revision, cleaned, "
                  "quantizer_version, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 1, 0, ?, ?) "
                  "ON CONFLICT (owner, request_id) WHERE request_id <> '' DO NOTHING");
  SA_RETURN_IF_ERROR(write.Text(stored.job_id())
                         .Text(stored.owner())
                         .Text(job.request_id)
                         .Blob(job.fingerprint)
                         .Int(stored.state())
                         .Int(stored.spec().priority())
                         .Int(stored.spec().any_device())
                         .Text(stored.device_class())
                         .Text(job.quantizer_version)
                         .Blob(Document(stored))
                         .Run());
  if (s.Changes() == 0) {  // the same request, at the same time
    SA_ASSIGN_OR_RETURN(std::optional<JobRecord> known,
                        ReadRequest(s, stored.owner(), job.request_id, job.fingerprint));
    if (known.has_value()) return *std::move(known);
    return absl::UnavailableError("database: a job with this request_id is being deleted");
  }
  SA_RETURN_IF_ERROR(AddTasks(s, stored.job_id(), job.tasks));
  v1::JobEvent event;
  event.set_state(stored.state());
  SA_RETURN_IF_ERROR(AddEvents(s, stored.job_id(), {event}).status());
  return ReadJob(s, stored.job_id(), /*hold=*/false);
}

absl::StatusOr<std::optional<JobRecord>> SqlJobStore::FindRequest(const std::string& owner,
                                                                  const std::string& request_id,
                                                                  const std::string& fingerprint) {
  return sql::Read(db_.get(),
                   [&](Session& s) { return ReadRequest(s, owner, request_id, fingerprint); });
}

absl::StatusOr<JobRecord> SqlJobStore::GetJob(const std::string& job_id) {
  return sql::Read(db_.get(), [&](Session& s) { return ReadJob(s, job_id, /*hold=*/false); });
}

absl::StatusOr<std::vector<JobRecord>> SqlJobStore::ListJobs(int page_size,
                                                             const std::string& page_token,
                                                             std::string* next_token) {
  int64_t before = INT64_MAX;
  if (!page_token.empty() && !absl::SimpleAtoi(page_token, &before)) {
    return absl::InvalidArgumentError(
        "page_token: expected the next_page_token of an earlier answer");
  }
  next_token->clear();
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<std::vector<JobRecord>> {
    Statement read(s, absl::StrCat(kJobColumns, "WHERE number < ? ORDER BY number DESC LIMIT ?"));
    read.Int(before).Int(page_size + 1);
    std::vector<JobRecord> jobs;
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
  });
}

absl::StatusOr<std::vector<std::string>> SqlJobStore::JobsNeedingWork() {
  SA_ASSIGN_OR_RETURN(const std::vector<JobMark> marks, MarksOfJobsNeedingWork());
  std::vector<std::string> jobs;
  jobs.reserve(marks.size());
  for (const JobMark& mark : marks) jobs.push_back(mark.job_id);
  return jobs;
}

absl::StatusOr<std::vector<JobMark>> SqlJobStore::MarksOfJobsNeedingWork() {
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<std::vector<JobMark>> {
    Statement read(s,
                   "SELECT job_id, revision, last_sequence FROM jobs WHERE state NOT IN (?, ?, ?) "
                   "OR (cleaned = 0 AND state IN (?, ?)) ORDER BY number");
    read.Int(v1::JOB_STATE_SUCCEEDED).Int(v1::JOB_STATE_FAILED).Int(v1::JOB_STATE_CANCELLED);
    read.Int(v1::JOB_STATE_SUCCEEDED).Int(v1::JOB_STATE_CANCELLED);
    std::vector<JobMark> marks;
    while (true) {
      SA_ASSIGN_OR_RETURN(const bool row, read.Step());
      if (!row) return marks;
      JobMark& mark = marks.emplace_back();
      mark.job_id = read.GetText();
      mark.revision = static_cast<uint64_t>(read.GetInt());
      mark.last_sequence = static_cast<uint64_t>(read.GetInt());
    }
  });
}

absl::StatusOr<std::map<std::string, uint64_t>> SqlJobStore::LastSequences(
    const std::vector<std::string>& job_ids) {
  // Always as many question marks, so that there is one statement to prepare.
  static const auto& query = *new std::string(
      absl::StrCat("SELECT job_id, last_sequence FROM jobs WHERE job_id IN (?",
                   absl::StrJoin(std::vector<std::string>(kIdsAtATime, ""), ", ?"), ")"));
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<std::map<std::string, uint64_t>> {
    std::map<std::string, uint64_t> sequences;
    for (size_t first = 0; first < job_ids.size(); first += kIdsAtATime) {
      Statement read(s, query);
      for (size_t i = first; i < first + kIdsAtATime; ++i) {
        read.Text(i < job_ids.size() ? job_ids[i] : "");
      }
      while (true) {
        SA_ASSIGN_OR_RETURN(const bool row, read.Step());
        if (!row) break;
        const std::string job_id = read.GetText();
        sequences[job_id] = static_cast<uint64_t>(read.GetInt());
      }
    }
    return sequences;
  });
}

absl::StatusOr<std::map<v1::JobState, int>> SqlJobStore::CountJobs() {
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<std::map<v1::JobState, int>> {
    Statement read(s, "SELECT state, COUNT(*) FROM jobs GROUP BY state");
    std::map<v1::JobState, int> counts;
    while (true) {
      SA_ASSIGN_OR_RETURN(const bool row, read.Step());
      if (!row) return counts;
      const auto state = static_cast<v1::JobState>(read.GetInt());
      counts[state] = static_cast<int>(read.GetInt());
    }
  });
}

absl::StatusOr<std::vector<JobRecord>> SqlJobStore::ListFailedJobs(int limit) {
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<std::vector<JobRecord>> {
    Statement read(s, absl::StrCat(kJobColumns, "WHERE state = ? ORDER BY number DESC LIMIT ?"));
    read.Int(v1::JOB_STATE_FAILED).Int(limit);
    std::vector<JobRecord> jobs;
    int64_t number = 0;
    while (true) {
      SA_ASSIGN_OR_RETURN(const bool row, read.Step());
      if (!row) return jobs;
      SA_ASSIGN_OR_RETURN(JobRecord record, ReadJobRow(&read, &number));
      jobs.push_back(std::move(record));
    }
  });
}

absl::StatusOr<JobRecord> SqlJobStore::UpdateJob(const JobUpdate& update) {
  return sql::Write(db_.get(), [&](Session& s) -> absl::StatusOr<JobRecord> {
    const std::string& job_id = update.job.job_id();
    if (update.drop_open_tasks) SA_RETURN_IF_ERROR(HoldOpenTasks(s, job_id));
    SA_ASSIGN_OR_RETURN(JobRecord record, ReadJob(s, job_id, /*hold=*/true));
    if (record.revision != update.expected_revision) {
      return absl::AbortedError(absl::StrCat("job ", job_id, ": revision found ", record.revision,
                                             ", expected ", update.expected_revision));
    }
    if (update.drop_open_tasks) SA_RETURN_IF_ERROR(DropOpenTasks(s, job_id, /*running_too=*/true));
    SA_RETURN_IF_ERROR(AddTasks(s, job_id, update.tasks));
    if (!update.events.empty()) {
      SA_RETURN_IF_ERROR(AddEvents(s, job_id, update.events).status());
    }
    const v1::JobState before = record.job.state();
    record.job = update.job;
    if (update.job.state() != before) {
      SA_RETURN_IF_ERROR(MoveJob(s, &record, update.job.state()));
    } else {
      ++record.revision;
      SA_RETURN_IF_ERROR(WriteJob(s, record));
    }
    s.Announce();
    return ReadJob(s, job_id, /*hold=*/false);
  });
}

absl::StatusOr<JobRecord> SqlJobStore::CancelJob(const std::string& job_id) {
  return sql::Write(db_.get(), [&](Session& s) -> absl::StatusOr<JobRecord> {
    SA_RETURN_IF_ERROR(HoldOpenTasks(s, job_id));
    SA_ASSIGN_OR_RETURN(JobRecord record, ReadJob(s, job_id, /*hold=*/true));
    const v1::JobState state = record.job.state();
    if (state == v1::JOB_STATE_CANCELLING || state == v1::JOB_STATE_CANCELLED) return record;
    if (IsTerminal(state)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "job ", job_id, " has ended (", StateName(state), "): there is nothing to cancel"));
    }
    SA_RETURN_IF_ERROR(DropOpenTasks(s, job_id, /*running_too=*/false));
    record.job.set_resume_state(state);
    SA_RETURN_IF_ERROR(MoveJob(s, &record, v1::JOB_STATE_CANCELLING));
    SA_RETURN_IF_ERROR(FinishCancel(s, job_id));
    return ReadJob(s, job_id, /*hold=*/false);
  });
}

absl::Status SqlJobStore::FinishCancel(Session& s, const std::string& job_id) {
  SA_ASSIGN_OR_RETURN(JobRecord record, ReadJob(s, job_id, /*hold=*/true));
  if (record.job.state() != v1::JOB_STATE_CANCELLING) return absl::OkStatus();
  SA_ASSIGN_OR_RETURN(const bool running, HasRunningTask(s, job_id));
  if (running) return absl::OkStatus();
  return MoveJob(s, &record, v1::JOB_STATE_CANCELLED);
}

absl::StatusOr<JobRecord> SqlJobStore::RetryJob(const std::string& job_id) {
  return sql::Write(db_.get(), [&](Session& s) -> absl::StatusOr<JobRecord> {
    SA_ASSIGN_OR_RETURN(JobRecord record, ReadJob(s, job_id, /*hold=*/true));
    if (record.job.state() != v1::JOB_STATE_FAILED) {
      return absl::FailedPreconditionError(absl::StrCat(
          "job ", job_id, ": state found ", StateName(record.job.state()), ", expected FAILED"));
    }
    Statement reset(
        s,
        "UPDATE tasks SET state = ?, attempts = '{}', losses = '[]', lost_by = '', error = ?, "
        "error_code = 0, progress = 0 WHERE job_id = ? AND state IN (?, ?)");
    SA_RETURN_IF_ERROR(reset.Int(static_cast<int>(TaskState::kReady))
                           .Blob("")
                           .Text(job_id)
                           .Int(static_cast<int>(TaskState::kFailed))
                           .Int(static_cast<int>(TaskState::kCancelled))
                           .Run());
    const v1::JobState resume = record.job.resume_state();
    s.Announce(Change::kWork);
    record.job.clear_resume_state();
    record.job.clear_error();
    SA_RETURN_IF_ERROR(
        MoveJob(s, &record, resume == v1::JOB_STATE_UNSPECIFIED ? v1::JOB_STATE_QUEUED : resume));
    return ReadJob(s, job_id, /*hold=*/false);
  });
}

absl::Status SqlJobStore::MarkCleaned(const std::string& job_id) {
  return db_->Write([&](Session& s) {
    return Statement(s, "UPDATE jobs SET cleaned = 1 WHERE job_id = ?").Text(job_id).Run();
  });
}

absl::Status SqlJobStore::DeleteJob(const std::string& job_id) {
  return db_->Write([&](Session& s) -> absl::Status {
    SA_ASSIGN_OR_RETURN(const JobRecord record, ReadJob(s, job_id, /*hold=*/true));
    if (!IsTerminal(record.job.state())) {
      return absl::FailedPreconditionError(absl::StrCat(
          "job ", job_id, " is ", StateName(record.job.state()), ": cancel it before deleting it"));
    }
    for (const char* table : {"events", "tasks", "jobs"}) {
      Statement erase(s, absl::StrCat("DELETE FROM ", table, " WHERE job_id = ?"));
      SA_RETURN_IF_ERROR(erase.Text(job_id).Run());
    }
    s.Announce();
    return absl::OkStatus();
  });
}

// --- Events and changes --------------------------------------------------------------------------

absl::Status SqlJobStore::AppendEvents(const std::string& job_id,
                                       const std::vector<v1::JobEvent>& events) {
  return db_->Write([&](Session& s) -> absl::Status {
    SA_ASSIGN_OR_RETURN(const v1::JobState state, AddEvents(s, job_id, events));
    // Streams end with the event of a terminal state: nothing may follow it.
    if (IsTerminal(state)) {
      return absl::FailedPreconditionError(absl::StrCat("job ", job_id, " has ended"));
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<v1::JobEvent>> SqlJobStore::Events(const std::string& job_id,
                                                              uint64_t from_sequence, int limit) {
  const uint64_t from = std::min<uint64_t>(from_sequence, INT64_MAX);
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<std::vector<v1::JobEvent>> {
    Statement read(s,
                   "SELECT payload FROM events WHERE job_id = ? AND sequence >= ? "
                   "ORDER BY sequence LIMIT ?");
    read.Text(job_id).Int(static_cast<int64_t>(from)).Int(limit);
    std::vector<v1::JobEvent> events;
    while (true) {
      SA_ASSIGN_OR_RETURN(const bool row, read.Step());
      if (!row) break;
      if (!events.emplace_back().ParseFromString(read.GetText())) {
        return absl::DataLossError("database: an event is damaged");
      }
    }
    // Every job has its first event from the beginning.
    if (events.empty()) SA_RETURN_IF_ERROR(ReadJob(s, job_id, /*hold=*/false).status());
    return events;
  });
}

uint64_t SqlJobStore::AwaitChange(uint64_t seen, absl::Duration timeout) {
  return changes_->Await(seen, timeout);
}

uint64_t SqlJobStore::AwaitWork(uint64_t seen, absl::Duration timeout) {
  return changes_->AwaitWork(seen, timeout);
}

void SqlJobStore::StopWaiting() { changes_->Stop(); }

}  // namespace shiftadd
