// The task half of SqlJobStore: leases, completions, failures, workers.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/store/sql_job_store.h"

namespace shiftadd {
namespace {

using sql::Session;
using sql::Statement;

constexpr char kTaskColumns[] =
    "SELECT task_id, job_id, kind, ordinal, lane, rank, state, lease_epoch, deadline, worker, "
    "attempts, progress, lease_time, end_time, error_code, error, excused, losses, ";
constexpr absl::Duration kWorkerMemory = absl::Hours(1);
constexpr size_t kMaxLosses = 16;
constexpr size_t kMaxLossBytes =
    500;  // of an error; the whole one of the last loss is kept as well
// Each time a worker of another class was faster on a job that nobody had begun.
constexpr int kLeaseAttempts = 3;

// The cut may fall into a character: what is left of it is replaced.
std::string LossesJson(const std::vector<TaskLoss>& losses) {
  nlohmann::json list = nlohmann::json::array();
  for (const TaskLoss& loss : losses) list.push_back({loss.worker, loss.cause, loss.error});
  return list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::Status ParseLosses(const std::string& text, std::vector<TaskLoss>* losses) {
  const nlohmann::json list = nlohmann::json::parse(text, nullptr, false);
  for (const nlohmann::json& item : list) {
    if (!item.is_array() || item.size() != 3) continue;
    losses->push_back(
        {item[0].get<std::string>(), item[1].get<std::string>(), item[2].get<std::string>()});
  }
  if (list.is_array() && losses->size() == list.size()) return absl::OkStatus();
  return absl::DataLossError("database: a task's losses are damaged");
}

absl::StatusOr<TaskRecord> ReadTaskRow(Statement* row) {
  TaskRecord t;
  t.task_id = row->GetText();
  t.job_id = row->GetText();
  t.kind = static_cast<v1::TaskKind>(row->GetInt());
  t.ordinal = static_cast<uint32_t>(row->GetInt());
  t.lane = static_cast<uint32_t>(row->GetInt());
  t.rank = static_cast<int>(row->GetInt());
  t.state = static_cast<TaskState>(row->GetInt());
  t.lease_epoch = static_cast<uint64_t>(row->GetInt());
  t.deadline = absl::FromUnixMicros(row->GetInt());
  t.worker = row->GetText();
  const nlohmann::json attempts = nlohmann::json::parse(row->GetText(), nullptr, false);
  if (!attempts.is_object()) return absl::DataLossError("database: a task's attempts are damaged");
  for (const auto& [cause, count] : attempts.items()) {
    if (count.is_number_integer()) t.attempts[cause] = count.get<int>();
  }
  t.progress = row->GetReal();
  t.lease_time = absl::FromUnixMicros(row->GetInt());
  t.end_time = absl::FromUnixMicros(row->GetInt());
  t.error_code = static_cast<int>(row->GetInt());
  t.error = row->GetText();
  t.excused = row->GetInt() != 0;
  SA_RETURN_IF_ERROR(ParseLosses(row->GetText(), &t.losses));
  t.payload = row->GetText();
  t.result = row->GetText();
  return t;
}

absl::Status LeaseLost(const LeaseKey& key, const TaskRecord& task) {
  return absl::AbortedError(absl::StrCat("task ", key.task_id, ": lease lost: found epoch ",
                                         task.lease_epoch, " of worker \"", task.worker, "\" (",
                                         TaskStateName(task.state), "), named epoch ", key.epoch,
                                         " of worker \"", key.worker, "\""));
}

}  // namespace

// --- Rows ----------------------------------------------------------------------------------------

absl::StatusOr<TaskRecord> SqlJobStore::ReadTask(Session& s, const std::string& task_id,
                                                 bool hold) {
  Statement read(s, absl::StrCat(kTaskColumns, "payload, result FROM tasks WHERE task_id = ?",
                                 hold ? s.For(sql::Lock::kWait) : std::string()));
  read.Text(task_id);
  SA_ASSIGN_OR_RETURN(const bool row, read.Step());
  if (!row) return absl::NotFoundError(absl::StrCat("task \"", task_id, "\" does not exist"));
  return ReadTaskRow(&read);
}

absl::StatusOr<TaskRecord> SqlJobStore::HoldLeased(Session& s, const LeaseKey& key) {
  auto task = ReadTask(s, key.task_id, /*hold=*/true);
  // A deleted job's task is a lease lost like any other.
  if (absl::IsNotFound(task.status())) return absl::AbortedError(task.status().message());
  SA_RETURN_IF_ERROR(task.status());
  if (task->state != TaskState::kRunning || task->lease_epoch != key.epoch ||
      task->worker != key.worker) {
    return LeaseLost(key, *task);
  }
  return task;
}

absl::Status SqlJobStore::WriteTask(Session& s, const TaskRecord& task) {
  Statement write(s,
                  "UPDATE tasks SET state = ?, lease_epoch = ?, deadline = ?, worker = ?, "
                  "attempts = ?, progress = ?, lease_time = ?, end_time = ?, error_code = ?, "
                  "error = ?, excused = ?, losses = ?, result = ? WHERE task_id = ?");
  return write.Int(static_cast<int>(task.state))
      .Int(static_cast<int64_t>(task.lease_epoch))
      .Int(absl::ToUnixMicros(task.deadline))
      .Text(task.worker)
      .Text(nlohmann::json(task.attempts).dump())
      .Real(task.progress)
      .Int(absl::ToUnixMicros(task.lease_time))
      .Int(absl::ToUnixMicros(task.end_time))
      .Int(task.error_code)
      .Blob(task.error)
      .Int(task.excused)
      .Text(LossesJson(task.losses))
      .Blob(task.result)
      .Text(task.task_id)
      .Run();
}

absl::Status SqlJobStore::AddTask(Session& s, const std::string& job_id, const NewTask& task) {
  const bool done = !task.result.empty();
  Statement write(s,
                  "INSERT INTO tasks (task_id, job_id, kind, ordinal, lane, rank, state, "
                  "lease_epoch, deadline, worker, lost_by, attempts, progress, lease_time, "
                  "end_time, error_code, error, payload, result) VALUES "
                  "(?, ?, ?, ?, ?, ?, ?, 0, 0, ?, '', '{}', ?, 0, 0, 0, ?, ?, ?) "
                  "ON CONFLICT (job_id, kind, ordinal) DO NOTHING");
  return write.Text(NewId("task"))
      .Text(job_id)
      .Int(task.kind)
      .Int(task.ordinal)
      .Int(task.lane)
      .Int(task.rank)
      .Int(static_cast<int>(done ? TaskState::kDone : TaskState::kReady))
      .Text(task.worker)
      .Real(done ? 1 : 0)
      .Blob("")
      .Blob(task.payload)
      .Blob(task.result)
      .Run();
}

absl::Status SqlJobStore::AddTaskEvent(Session& s, const TaskRecord& task, const char* change,
                                       const std::string& detail) {
  v1::JobEvent event;
  v1::TaskEvent* e = event.mutable_task();
  e->set_task_id(task.task_id);
  e->set_kind(v1::TaskKind_Name(task.kind).substr(sizeof("TASK_KIND_") - 1));
  e->set_worker(task.worker);
  e->set_change(change);
  e->set_detail(detail);
  return AddEvent(s, task.job_id, event);
}

absl::Status SqlJobStore::HoldOpenTasks(Session& s, const std::string& job_id) {
  const std::string hold = s.For(sql::Lock::kWait);
  if (hold.empty()) return absl::OkStatus();
  Statement read(s, absl::StrCat("SELECT 1 FROM tasks WHERE job_id = ? AND state IN (?, ?) "
                                 "ORDER BY number",
                                 hold));
  return read.Text(job_id)
      .Int(static_cast<int>(TaskState::kReady))
      .Int(static_cast<int>(TaskState::kRunning))
      .Run();
}

absl::Status SqlJobStore::DropOpenTasks(Session& s, const std::string& job_id, bool running_too) {
  // The epoch moves, so that whoever still works on one is told at its next renewal.
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  Statement write(s,
                  "UPDATE tasks SET state = ?, lease_epoch = lease_epoch + 1, end_time = ? "
                  "WHERE job_id = ? AND state IN (?, ?)");
  const auto ready = static_cast<int>(TaskState::kReady);
  return write.Int(static_cast<int>(TaskState::kCancelled))
      .Int(now)
      .Text(job_id)
      .Int(ready)
      .Int(running_too ? static_cast<int>(TaskState::kRunning) : ready)
      .Run();
}

absl::StatusOr<bool> SqlJobStore::HasRunningTask(Session& s, const std::string& job_id) {
  Statement read(s, "SELECT 1 FROM tasks WHERE job_id = ? AND state = ? LIMIT 1");
  return read.Text(job_id).Int(static_cast<int>(TaskState::kRunning)).Step();
}

absl::StatusOr<std::vector<TaskRecord>> SqlJobStore::ListTasks(const std::string& job_id,
                                                               bool with_bytes) {
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<std::vector<TaskRecord>> {
    Statement read(s, absl::StrCat(kTaskColumns, with_bytes ? "payload, result" : "'', ''",
                                   " FROM tasks WHERE job_id = ? ORDER BY kind, ordinal"));
    read.Text(job_id);
    std::vector<TaskRecord> tasks;
    while (true) {
      SA_ASSIGN_OR_RETURN(const bool row, read.Step());
      if (!row) return tasks;
      SA_ASSIGN_OR_RETURN(TaskRecord task, ReadTaskRow(&read));
      tasks.push_back(std::move(task));
    }
  });
}

absl::StatusOr<TaskRecord> SqlJobStore::GetTask(const std::string& task_id) {
  return sql::Read(db_.get(), [&](Session& s) { return ReadTask(s, task_id, /*hold=*/false); });
}

absl::StatusOr<std::map<std::pair<v1::TaskKind, TaskState>, int>> SqlJobStore::CountTasks() {
  using Counts = std::map<std::pair<v1::TaskKind, TaskState>, int>;
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<Counts> {
    Statement read(s, "SELECT kind, state, COUNT(*) FROM tasks GROUP BY kind, state");
    Counts counts;
    while (true) {
      SA_ASSIGN_OR_RETURN(const bool row, read.Step());
      if (!row) return counts;
      const auto kind = static_cast<v1::TaskKind>(read.GetInt());
      const auto state = static_cast<TaskState>(read.GetInt());
      counts[{kind, state}] = static_cast<int>(read.GetInt());
    }
  });
}

// --- Leases --------------------------------------------------------------------------------------

absl::Status SqlJobStore::ExtendLeases() {
  return db_->Write([&](Session& s) -> absl::Status {
    SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
    Statement write(s,
                    "UPDATE tasks SET deadline = ?, excused = 1 WHERE state = ? AND deadline < ?");
    const int64_t deadline = now + absl::ToInt64Microseconds(policy_.lease);
    return write.Int(deadline).Int(static_cast<int>(TaskState::kRunning)).Int(deadline).Run();
  });
}

absl::StatusOr<std::vector<SchedulableJob>> SqlJobStore::ReadSchedule(Session& s) {
  Statement read(s,
                 "SELECT j.job_id, j.owner, COALESCE(o.turn, 0), j.priority, j.number, "
                 "j.device_class, j.any_device, t.task_id, t.kind, t.ordinal, t.lane, t.rank, "
                 "t.state, t.lost_by FROM tasks t JOIN jobs j ON j.job_id = t.job_id "
                 "LEFT JOIN owners o ON o.owner = j.owner "
                 "WHERE t.state IN (?, ?) ORDER BY j.number, t.number");
  read.Int(static_cast<int>(TaskState::kReady)).Int(static_cast<int>(TaskState::kRunning));
  std::vector<SchedulableJob> jobs;
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (!row) return jobs;
    SchedulableJob job;
    job.job_id = read.GetText();
    job.owner = read.GetText();
    job.owner_turn = read.GetInt();
    job.priority = static_cast<int>(read.GetInt());
    job.age = read.GetInt();
    job.device_class = read.GetText();
    job.any_device = read.GetInt() != 0;
    if (jobs.empty() || jobs.back().job_id != job.job_id) jobs.push_back(std::move(job));
    SchedulableTask& task = jobs.back().tasks.emplace_back();
    task.task_id = read.GetText();
    task.kind = static_cast<v1::TaskKind>(read.GetInt());
    task.ordinal = static_cast<uint32_t>(read.GetInt());
    task.lane = static_cast<uint32_t>(read.GetInt());
    task.rank = static_cast<int>(read.GetInt());
    task.running = read.GetInt() == static_cast<int>(TaskState::kRunning);
    task.last_worker = read.GetText();
  }
}

absl::StatusOr<bool> SqlJobStore::OthersCouldTake(Session& s, const LeaseQuery& query) {
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  Statement read(s,
                 "SELECT 1 FROM workers WHERE worker_id <> ? AND device_class = ? "
                 "AND last_seen > ? LIMIT 1");
  read.Text(query.worker)
      .Text(query.device_class)
      .Int(now - absl::ToInt64Microseconds(2 * policy_.lease));
  return read.Step();
}

absl::Status SqlJobStore::GrantLease(Session& s, TaskRecord* task, const LeaseQuery& query) {
  // Since the schedule was read another worker may have pinned the job to its class.
  SA_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(s, task->job_id, /*hold=*/true));
  const std::string& pinned = job.job.device_class();
  if (!job.job.spec().any_device() && !pinned.empty() && pinned != query.device_class) {
    return absl::AbortedError("the job has been pinned to another device class");
  }
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  task->state = TaskState::kRunning;
  ++task->lease_epoch;
  task->worker = query.worker;
  task->lease_time = absl::FromUnixMicros(now);
  task->deadline = task->lease_time + policy_.lease;
  task->progress = 0;
  task->excused = false;
  SA_RETURN_IF_ERROR(WriteTask(s, *task));
  Statement named(s, "UPDATE tasks SET lease_request = ? WHERE task_id = ?");
  SA_RETURN_IF_ERROR(named.Text(query.request_id).Text(task->task_id).Run());
  Statement pin(s, "UPDATE jobs SET device_class = ? WHERE job_id = ? AND device_class = ''");
  SA_RETURN_IF_ERROR(pin.Text(query.device_class).Text(task->job_id).Run());
  SA_RETURN_IF_ERROR(AddTaskEvent(s, *task, "leased", ""));
  Statement turn(s,
                 "INSERT INTO owners (owner, turn) "
                 "SELECT owner, (SELECT COALESCE(MAX(turn), 0) + 1 FROM owners) FROM jobs "
                 "WHERE job_id = ? ON CONFLICT (owner) DO UPDATE SET turn = excluded.turn");
  return turn.Text(task->job_id).Run();
}

absl::StatusOr<std::optional<TaskRecord>> SqlJobStore::Regrant(Session& s,
                                                               const LeaseQuery& query) {
  if (query.request_id.empty()) return std::nullopt;
  Statement find(s, absl::StrCat("SELECT task_id FROM tasks WHERE state = ? AND worker = ? AND "
                                 "lease_request = ?",
                                 s.For(sql::Lock::kWait)));
  find.Int(static_cast<int>(TaskState::kRunning)).Text(query.worker).Text(query.request_id);
  SA_ASSIGN_OR_RETURN(const bool found, find.Step());
  if (!found) return std::nullopt;
  const std::string task_id = find.GetText();
  SA_RETURN_IF_ERROR(find.Run());
  SA_ASSIGN_OR_RETURN(TaskRecord task, ReadTask(s, task_id, /*hold=*/false));
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  task.deadline = absl::FromUnixMicros(now) + policy_.lease;
  SA_RETURN_IF_ERROR(WriteTask(s, task));
  return task;
}

absl::StatusOr<LeaseOutcome> SqlJobStore::TryLease(Session& s, const LeaseQuery& query) {
  LeaseOutcome outcome;
  SA_ASSIGN_OR_RETURN(outcome.task, Regrant(s, query));
  outcome.repeated = outcome.task.has_value();
  if (outcome.repeated) return outcome;
  SA_ASSIGN_OR_RETURN(const WorkerStanding standing, ReadStanding(s, query.worker));
  if (standing != WorkerStanding::kActive) {
    outcome.idle_reason = standing == WorkerStanding::kCordoned ? "cordoned" : "drained";
    return outcome;
  }
  SA_ASSIGN_OR_RETURN(const bool others, OthersCouldTake(s, query));
  SA_ASSIGN_OR_RETURN(std::vector<SchedulableJob> jobs, ReadSchedule(s));
  while (true) {
    const std::string task_id = PickTask(jobs, query, others, &outcome.idle_reason);
    if (task_id.empty()) return outcome;
    Statement hold(s, absl::StrCat("SELECT 1 FROM tasks WHERE task_id = ? AND state = ?",
                                   s.For(sql::Lock::kSkipLocked)));
    hold.Text(task_id).Int(static_cast<int>(TaskState::kReady));
    SA_ASSIGN_OR_RETURN(const bool held, hold.Step());
    if (!held) {  // somebody else is taking it
      for (SchedulableJob& job : jobs) {
        for (SchedulableTask& task : job.tasks) task.running |= task.task_id == task_id;
      }
      continue;
    }
    SA_RETURN_IF_ERROR(hold.Run());
    SA_ASSIGN_OR_RETURN(TaskRecord task, ReadTask(s, task_id, /*hold=*/false));
    SA_RETURN_IF_ERROR(GrantLease(s, &task, query));
    SA_RETURN_IF_ERROR(WriteWorker(s, query));
    outcome.idle_reason.clear();
    outcome.task = std::move(task);
    return outcome;
  }
}

absl::StatusOr<LeaseOutcome> SqlJobStore::LeaseTask(const LeaseQuery& query) {
  absl::StatusOr<LeaseOutcome> outcome;
  for (int attempt = 0; attempt < kLeaseAttempts; ++attempt) {
    outcome = sql::Write(db_.get(), [&](Session& s) { return TryLease(s, query); });
    if (!absl::IsAborted(outcome.status())) return outcome;
  }
  LeaseOutcome idle;
  idle.idle_reason = "idle";
  return idle;
}

absl::StatusOr<Renewal> SqlJobStore::RenewLease(const LeaseKey& key, double progress) {
  // Not announced: nobody waits for a renewal.
  return sql::Write(db_.get(), [&](Session& s) -> absl::StatusOr<Renewal> {
    SA_ASSIGN_OR_RETURN(const TaskRecord task, HoldLeased(s, key));
    SA_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(s, task.job_id, /*hold=*/false));
    SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
    Renewal renewal;
    SA_ASSIGN_OR_RETURN(const WorkerStanding standing, ReadStanding(s, key.worker));
    renewal.cancel =
        job.job.state() == v1::JOB_STATE_CANCELLING || standing == WorkerStanding::kDraining;
    renewal.deadline = absl::FromUnixMicros(now) + policy_.lease;
    Statement write(s,
                    "UPDATE tasks SET deadline = ?, progress = ?, excused = 0 WHERE task_id = ?");
    SA_RETURN_IF_ERROR(write.Int(absl::ToUnixMicros(renewal.deadline))
                           .Real(std::clamp(progress, 0.0, 1.0))
                           .Text(key.task_id)
                           .Run());
    Statement seen(s, "UPDATE workers SET last_seen = ? WHERE worker_id = ?");
    SA_RETURN_IF_ERROR(seen.Int(now).Text(key.worker).Run());
    return renewal;
  });
}

absl::StatusOr<bool> SqlJobStore::CompleteTask(const LeaseKey& key, const std::string& result,
                                               const std::vector<v1::JobEvent>& events) {
  return sql::Write(db_.get(), [&](Session& s) -> absl::StatusOr<bool> {
    const auto present = ReadTask(s, key.task_id, /*hold=*/true);
    if (!present.ok() && !absl::IsNotFound(present.status())) return present.status();
    if (present.ok() && present->state == TaskState::kDone && present->lease_epoch == key.epoch &&
        present->worker == key.worker && present->result == result) {
      return false;
    }
    SA_ASSIGN_OR_RETURN(TaskRecord task, HoldLeased(s, key));
    SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
    task.state = TaskState::kDone;
    task.end_time = absl::FromUnixMicros(now);
    task.progress = 1;
    task.result = result;
    SA_RETURN_IF_ERROR(WriteTask(s, task));
    SA_RETURN_IF_ERROR(AddTaskEvent(s, task, "done", ""));
    for (const v1::JobEvent& event : events) SA_RETURN_IF_ERROR(AddEvent(s, task.job_id, event));
    SA_RETURN_IF_ERROR(FinishCancel(s, task.job_id));
    return true;
  });
}

absl::Status SqlJobStore::EndLease(Session& s, TaskRecord* task, FailureKind kind,
                                   const std::string& cause) {
  SA_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(s, task->job_id, /*hold=*/true));
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  task->end_time = absl::FromUnixMicros(now);
  task->progress = 0;
  task->excused = false;
  if (kind != FailureKind::kReleased) {
    task->losses.push_back({task->worker, cause, task->error.substr(0, kMaxLossBytes)});
    if (task->losses.size() > kMaxLosses) task->losses.erase(task->losses.begin());
  }
  if (kind == FailureKind::kRetry) ++task->attempts[cause];
  if (job.job.state() == v1::JOB_STATE_CANCELLING) {
    task->state = TaskState::kCancelled;
  } else if (kind == FailureKind::kFatal || task->lost_attempts() >= policy_.max_attempts) {
    task->state = TaskState::kFailed;
  } else {
    task->state = TaskState::kReady;
  }
  SA_RETURN_IF_ERROR(WriteTask(s, *task));
  if (kind == FailureKind::kReleased) return absl::OkStatus();
  Statement lost(s, "UPDATE tasks SET lost_by = worker WHERE task_id = ?");
  return lost.Text(task->task_id).Run();
}

absl::StatusOr<bool> SqlJobStore::FailTask(const LeaseKey& key, FailureKind kind,
                                           const std::string& cause, int code,
                                           const std::string& message) {
  return sql::Write(db_.get(), [&](Session& s) -> absl::StatusOr<bool> {
    SA_ASSIGN_OR_RETURN(TaskRecord task, HoldLeased(s, key));
    task.error_code = code;
    task.error = message;
    SA_RETURN_IF_ERROR(EndLease(s, &task, kind, cause));
    const bool released = kind == FailureKind::kReleased;
    SA_RETURN_IF_ERROR(AddTaskEvent(s, task, released ? "released" : "failed", message));
    SA_RETURN_IF_ERROR(FinishCancel(s, task.job_id));
    return task.state == TaskState::kFailed;
  });
}

absl::StatusOr<std::optional<Expired>> SqlJobStore::ReapTask(Session& s,
                                                             const std::string& task_id) {
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  Statement hold(s, absl::StrCat("SELECT 1 FROM tasks WHERE task_id = ? AND state = ? "
                                 "AND deadline < ?",
                                 s.For(sql::Lock::kSkipLocked)));
  hold.Text(task_id).Int(static_cast<int>(TaskState::kRunning)).Int(now);
  SA_ASSIGN_OR_RETURN(const bool held, hold.Step());
  if (!held) return std::nullopt;  // it has just ended, or somebody else reaps it
  SA_RETURN_IF_ERROR(hold.Run());
  SA_ASSIGN_OR_RETURN(TaskRecord task, ReadTask(s, task_id, /*hold=*/false));
  task.error_code = static_cast<int>(absl::StatusCode::kDeadlineExceeded);
  task.error = absl::StrCat("worker \"", task.worker, "\" stopped renewing its lease",
                            task.excused ? " while no coordinator or no store was there" : "");
  SA_RETURN_IF_ERROR(EndLease(s, &task, task.excused ? FailureKind::kReleased : FailureKind::kRetry,
                              kExpiredCause));
  SA_RETURN_IF_ERROR(AddTaskEvent(s, task, "expired", task.error));
  SA_RETURN_IF_ERROR(FinishCancel(s, task.job_id));
  return Expired{task.task_id, task.job_id, task.kind, task.worker,
                 task.state == TaskState::kFailed};
}

absl::StatusOr<std::vector<Expired>> SqlJobStore::ReapExpired() {
  if (db_->WasAway()) SA_RETURN_IF_ERROR(ExtendLeases());
  SA_ASSIGN_OR_RETURN(
      const std::vector<std::string> ids,
      sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<std::vector<std::string>> {
        SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
        std::vector<std::string> ids;
        Statement read(s, "SELECT task_id FROM tasks WHERE state = ? AND deadline < ?");
        read.Int(static_cast<int>(TaskState::kRunning)).Int(now);
        while (true) {
          SA_ASSIGN_OR_RETURN(const bool row, read.Step());
          if (!row) return ids;
          ids.push_back(read.GetText());
        }
      }));
  std::vector<Expired> expired;
  for (const std::string& id : ids) {
    SA_ASSIGN_OR_RETURN(std::optional<Expired> one,
                        sql::Write(db_.get(), [&](Session& s) { return ReapTask(s, id); }));
    if (one.has_value()) expired.push_back(*std::move(one));
  }
  return expired;
}

// --- Workers -------------------------------------------------------------------------------------

absl::Status SqlJobStore::WriteWorker(Session& s, const LeaseQuery& worker) {
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  Statement write(s,
                  "INSERT INTO workers (worker_id, device_class, memory, version, last_seen) "
                  "VALUES (?, ?, ?, ?, ?) ON CONFLICT (worker_id) DO UPDATE SET "
                  "device_class = excluded.device_class, memory = excluded.memory, "
                  "version = excluded.version, last_seen = excluded.last_seen");
  return write.Text(worker.worker)
      .Text(worker.device_class)
      .Int(static_cast<int64_t>(worker.memory_bytes))
      .Text(worker.version)
      .Int(now)
      .Run();
}

absl::StatusOr<WorkerStanding> SqlJobStore::ReadStanding(Session& s, const std::string& worker) {
  Statement read(s, "SELECT standing FROM workers WHERE worker_id = ?");
  SA_ASSIGN_OR_RETURN(const bool row, read.Text(worker).Step());
  return row ? static_cast<WorkerStanding>(read.GetInt()) : WorkerStanding::kActive;
}

absl::Status SqlJobStore::SetStanding(const std::string& worker, WorkerStanding standing) {
  return db_->Write([&](Session& s) -> absl::Status {
    Statement write(s, "UPDATE workers SET standing = ? WHERE worker_id = ?");
    SA_RETURN_IF_ERROR(write.Int(static_cast<int>(standing)).Text(worker).Run());
    if (s.Changes() == 0) {
      return absl::NotFoundError(absl::StrCat("worker \"", worker, "\" is not known"));
    }
    s.Announce();  // who is active again may have a task at once
    return absl::OkStatus();
  });
}

absl::Status SqlJobStore::TouchWorker(const LeaseQuery& worker) {
  return db_->Write([&](Session& s) -> absl::Status {
    SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
    SA_RETURN_IF_ERROR(WriteWorker(s, worker));
    Statement forget(s, "DELETE FROM workers WHERE last_seen < ?");
    return forget.Int(now - absl::ToInt64Microseconds(kWorkerMemory)).Run();
  });
}

absl::StatusOr<std::vector<WorkerRecord>> SqlJobStore::ListWorkers() {
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<std::vector<WorkerRecord>> {
    SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
    Statement read(s,
                   "SELECT w.worker_id, w.device_class, w.memory, w.version, w.last_seen, "
                   "COALESCE(t.task_id, ''), COALESCE(t.kind, 0), w.standing FROM workers w "
                   "LEFT JOIN tasks t ON t.worker = w.worker_id AND t.state = ? "
                   "WHERE w.last_seen >= ? ORDER BY w.worker_id, t.task_id");
    read.Int(static_cast<int>(TaskState::kRunning));
    read.Int(now - absl::ToInt64Microseconds(kWorkerMemory));
    std::vector<WorkerRecord> workers;
    while (true) {
      SA_ASSIGN_OR_RETURN(const bool row, read.Step());
      if (!row) return workers;
      WorkerRecord w;
      w.worker_id = read.GetText();
      w.device_class = read.GetText();
      w.memory_bytes = static_cast<uint64_t>(read.GetInt());
      w.version = read.GetText();
      w.last_seen = absl::FromUnixMicros(read.GetInt());
      w.task_id = read.GetText();
      w.task_kind = static_cast<v1::TaskKind>(read.GetInt());
      w.standing = static_cast<WorkerStanding>(read.GetInt());
      if (workers.empty() || workers.back().worker_id != w.worker_id) workers.push_back(w);
    }
  });
}

}  // namespace shiftadd
