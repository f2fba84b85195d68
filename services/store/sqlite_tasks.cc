// The task half of SqliteJobStore: leases, completions, failures, workers.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/store/sqlite_job_store.h"

namespace shiftadd {
namespace {

using sqlite::Statement;
using sqlite::Transaction;

constexpr char kTaskColumns[] =
    "SELECT task_id, job_id, kind, ordinal, lane, rank, state, lease_epoch, deadline, worker, "
    "attempts, progress, lease_time, end_time, error_code, error, ";
constexpr absl::Duration kWorkerMemory = absl::Hours(1);

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

absl::StatusOr<TaskRecord> SqliteJobStore::ReadTask(const std::string& task_id) {
  Statement read(db_->get(),
                 absl::StrCat(kTaskColumns, "payload, result FROM tasks WHERE task_id = ?"));
  read.Text(task_id);
  SA_ASSIGN_OR_RETURN(const bool row, read.Step());
  if (!row) return absl::NotFoundError(absl::StrCat("task \"", task_id, "\" does not exist"));
  return ReadTaskRow(&read);
}

absl::StatusOr<TaskRecord> SqliteJobStore::ReadLeased(const LeaseKey& key) {
  auto task = ReadTask(key.task_id);
  // A deleted job's task is a lease lost like any other.
  if (absl::IsNotFound(task.status())) return absl::AbortedError(task.status().message());
  SA_RETURN_IF_ERROR(task.status());
  if (task->state != TaskState::kRunning || task->lease_epoch != key.epoch ||
      task->worker != key.worker) {
    return LeaseLost(key, *task);
  }
  return task;
}

absl::Status SqliteJobStore::WriteTask(const TaskRecord& task) {
  Statement write(db_->get(),
                  "UPDATE tasks SET state = ?, lease_epoch = ?, deadline = ?, worker = ?, "
                  "attempts = ?, progress = ?, lease_time = ?, end_time = ?, error_code = ?, "
                  "error = ?, result = ? WHERE task_id = ?");
  return write.Int(static_cast<int>(task.state))
      .Int(static_cast<int64_t>(task.lease_epoch))
      .Int(absl::ToUnixMicros(task.deadline))
      .Text(task.worker)
      .Text(nlohmann::json(task.attempts).dump())
      .Real(task.progress)
      .Int(absl::ToUnixMicros(task.lease_time))
      .Int(absl::ToUnixMicros(task.end_time))
      .Int(task.error_code)
      .Text(task.error)
      .Blob(task.result)
      .Text(task.task_id)
      .Run();
}

absl::Status SqliteJobStore::AddTask(const std::string& job_id, const NewTask& task) {
  const bool done = !task.result.empty();
  Statement write(db_->get(),
                  "INSERT INTO tasks (task_id, job_id, kind, ordinal, lane, rank, state, "
                  "lease_epoch, deadline, worker, lost_by, attempts, progress, lease_time, "
                  "end_time, error_code, error, payload, result) VALUES "
                  "(?, ?, ?, ?, ?, ?, ?, 0, 0, ?, '', '{}', ?, 0, 0, 0, '', ?, ?) "
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
      .Blob(task.payload)
      .Blob(task.result)
      .Run();
}

absl::Status SqliteJobStore::AddTaskEvent(const TaskRecord& task, const char* change,
                                          const std::string& detail) {
  v1::JobEvent event;
  v1::TaskEvent* e = event.mutable_task();
  e->set_task_id(task.task_id);
  e->set_kind(v1::TaskKind_Name(task.kind).substr(sizeof("TASK_KIND_") - 1));
  e->set_worker(task.worker);
  e->set_change(change);
  e->set_detail(detail);
  return AddEvent(task.job_id, event);
}

absl::Status SqliteJobStore::DropOpenTasks(const std::string& job_id, bool running_too) {
  // The epoch moves, so that whoever still works on one is told at its next renewal.
  Statement write(db_->get(),
                  "UPDATE tasks SET state = ?, lease_epoch = lease_epoch + 1, end_time = ? "
                  "WHERE job_id = ? AND state IN (?, ?)");
  const auto ready = static_cast<int>(TaskState::kReady);
  return write.Int(static_cast<int>(TaskState::kCancelled))
      .Int(Now())
      .Text(job_id)
      .Int(ready)
      .Int(running_too ? static_cast<int>(TaskState::kRunning) : ready)
      .Run();
}

absl::StatusOr<bool> SqliteJobStore::HasRunningTask(const std::string& job_id) {
  Statement read(db_->get(), "SELECT 1 FROM tasks WHERE job_id = ? AND state = ? LIMIT 1");
  read.Text(job_id).Int(static_cast<int>(TaskState::kRunning));
  return read.Step();
}

absl::StatusOr<std::vector<TaskRecord>> SqliteJobStore::ListTasks(const std::string& job_id,
                                                                  bool with_bytes) {
  std::lock_guard<std::mutex> hold(mutex_);
  Statement read(db_->get(), absl::StrCat(kTaskColumns, with_bytes ? "payload, result" : "'', ''",
                                          " FROM tasks WHERE job_id = ? ORDER BY kind, ordinal"));
  read.Text(job_id);
  std::vector<TaskRecord> tasks;
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (!row) return tasks;
    SA_ASSIGN_OR_RETURN(TaskRecord task, ReadTaskRow(&read));
    tasks.push_back(std::move(task));
  }
}

absl::StatusOr<TaskRecord> SqliteJobStore::GetTask(const std::string& task_id) {
  std::lock_guard<std::mutex> hold(mutex_);
  return ReadTask(task_id);
}

absl::StatusOr<std::map<std::pair<v1::TaskKind, TaskState>, int>> SqliteJobStore::CountTasks() {
  std::lock_guard<std::mutex> hold(mutex_);
  Statement read(db_->get(), "SELECT kind, state, COUNT(*) FROM tasks GROUP BY kind, state");
  std::map<std::pair<v1::TaskKind, TaskState>, int> counts;
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (!row) return counts;
    const auto kind = static_cast<v1::TaskKind>(read.GetInt());
    const auto state = static_cast<TaskState>(read.GetInt());
    counts[{kind, state}] = static_cast<int>(read.GetInt());
  }
}

// --- Leases --------------------------------------------------------------------------------------

absl::Status SqliteJobStore::ExtendLeases() {
  std::lock_guard<std::mutex> hold(mutex_);
  Statement write(db_->get(), "UPDATE tasks SET deadline = MAX(deadline, ?) WHERE state = ?");
  return write.Int(Now() + absl::ToInt64Microseconds(policy_.lease))
      .Int(static_cast<int>(TaskState::kRunning))
      .Run();
}

absl::StatusOr<std::vector<SchedulableJob>> SqliteJobStore::ReadSchedule() {
  Statement read(db_->get(),
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

absl::StatusOr<bool> SqliteJobStore::OthersCouldTake(const LeaseQuery& query) {
  Statement read(db_->get(),
                 "SELECT 1 FROM workers WHERE worker_id <> ? AND device_class = ? "
                 "AND last_seen > ? LIMIT 1");
  read.Text(query.worker)
      .Text(query.device_class)
      .Int(Now() - absl::ToInt64Microseconds(2 * policy_.lease));
  return read.Step();
}

absl::Status SqliteJobStore::GrantLease(TaskRecord* task, const LeaseQuery& query) {
  task->state = TaskState::kRunning;
  ++task->lease_epoch;
  task->worker = query.worker;
  task->lease_time = clock_->Now();
  task->deadline = task->lease_time + policy_.lease;
  task->progress = 0;
  SA_RETURN_IF_ERROR(WriteTask(*task));
  Statement pin(db_->get(),
                "UPDATE jobs SET device_class = ? WHERE job_id = ? AND device_class = ''");
  SA_RETURN_IF_ERROR(pin.Text(query.device_class).Text(task->job_id).Run());
  Statement turn(db_->get(),
                 "INSERT INTO owners (owner, turn) "
                 "SELECT owner, (SELECT COALESCE(MAX(turn), 0) + 1 FROM owners) FROM jobs "
                 "WHERE job_id = ? ON CONFLICT (owner) DO UPDATE SET turn = excluded.turn");
  SA_RETURN_IF_ERROR(turn.Text(task->job_id).Run());
  return AddTaskEvent(*task, "leased", "");
}

absl::StatusOr<LeaseOutcome> SqliteJobStore::LeaseTask(const LeaseQuery& query) {
  std::lock_guard<std::mutex> hold(mutex_);
  LeaseOutcome outcome;
  SA_ASSIGN_OR_RETURN(const bool others, OthersCouldTake(query));
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  SA_ASSIGN_OR_RETURN(const std::vector<SchedulableJob> jobs, ReadSchedule());
  const std::string task_id = PickTask(jobs, query, others, &outcome.idle_reason);
  if (task_id.empty()) return outcome;
  SA_ASSIGN_OR_RETURN(TaskRecord task, ReadTask(task_id));
  SA_RETURN_IF_ERROR(GrantLease(&task, query));
  SA_RETURN_IF_ERROR(WriteWorker(query));
  SA_RETURN_IF_ERROR(Commit(transaction.get()));
  outcome.idle_reason.clear();
  outcome.task = std::move(task);
  return outcome;
}

absl::StatusOr<Renewal> SqliteJobStore::RenewLease(const LeaseKey& key, double progress) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  SA_ASSIGN_OR_RETURN(const TaskRecord task, ReadLeased(key));
  SA_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(task.job_id));
  Renewal renewal;
  renewal.cancel = job.job.state() == v1::JOB_STATE_CANCELLING;
  renewal.deadline = clock_->Now() + policy_.lease;
  Statement write(db_->get(), "UPDATE tasks SET deadline = ?, progress = ? WHERE task_id = ?");
  SA_RETURN_IF_ERROR(write.Int(absl::ToUnixMicros(renewal.deadline))
                         .Real(std::clamp(progress, 0.0, 1.0))
                         .Text(key.task_id)
                         .Run());
  Statement seen(db_->get(), "UPDATE workers SET last_seen = ? WHERE worker_id = ?");
  SA_RETURN_IF_ERROR(seen.Int(Now()).Text(key.worker).Run());
  SA_RETURN_IF_ERROR(transaction->Commit());  // nobody waits for a renewal: no Commit() of ours
  return renewal;
}

absl::StatusOr<bool> SqliteJobStore::CompleteTask(const LeaseKey& key, const std::string& result,
                                                  const std::vector<v1::JobEvent>& events) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  auto present = ReadTask(key.task_id);
  if (present.ok() && present->state == TaskState::kDone && present->lease_epoch == key.epoch &&
      present->worker == key.worker && present->result == result) {
    return false;
  }
  SA_ASSIGN_OR_RETURN(TaskRecord task, ReadLeased(key));
  task.state = TaskState::kDone;
  task.end_time = clock_->Now();
  task.progress = 1;
  task.result = result;
  SA_RETURN_IF_ERROR(WriteTask(task));
  SA_RETURN_IF_ERROR(AddTaskEvent(task, "done", ""));
  for (const v1::JobEvent& event : events) SA_RETURN_IF_ERROR(AddEvent(task.job_id, event));
  SA_RETURN_IF_ERROR(FinishCancel(task.job_id));
  SA_RETURN_IF_ERROR(Commit(transaction.get()));
  return true;
}

absl::Status SqliteJobStore::EndLease(TaskRecord* task, FailureKind kind,
                                      const std::string& cause) {
  SA_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(task->job_id));
  task->end_time = clock_->Now();
  task->progress = 0;
  if (kind == FailureKind::kRetry) ++task->attempts[cause];
  if (job.job.state() == v1::JOB_STATE_CANCELLING) {
    task->state = TaskState::kCancelled;
  } else if (kind == FailureKind::kFatal || task->lost_attempts() >= policy_.max_attempts) {
    task->state = TaskState::kFailed;
  } else {
    task->state = TaskState::kReady;
  }
  SA_RETURN_IF_ERROR(WriteTask(*task));
  if (kind == FailureKind::kReleased) return absl::OkStatus();
  Statement lost(db_->get(), "UPDATE tasks SET lost_by = worker WHERE task_id = ?");
  return lost.Text(task->task_id).Run();
}

absl::StatusOr<bool> SqliteJobStore::FailTask(const LeaseKey& key, FailureKind kind,
                                              const std::string& cause, int code,
                                              const std::string& message) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  SA_ASSIGN_OR_RETURN(TaskRecord task, ReadLeased(key));
  task.error_code = code;
  task.error = message;
  SA_RETURN_IF_ERROR(EndLease(&task, kind, cause));
  const bool released = kind == FailureKind::kReleased;
  SA_RETURN_IF_ERROR(AddTaskEvent(task, released ? "released" : "failed", message));
  SA_RETURN_IF_ERROR(FinishCancel(task.job_id));
  SA_RETURN_IF_ERROR(Commit(transaction.get()));
  return task.state == TaskState::kFailed;
}

absl::StatusOr<std::vector<Expired>> SqliteJobStore::ReapExpired() {
  std::lock_guard<std::mutex> hold(mutex_);
  std::vector<std::string> ids;
  {
    Statement read(db_->get(), "SELECT task_id FROM tasks WHERE state = ? AND deadline < ?");
    read.Int(static_cast<int>(TaskState::kRunning)).Int(Now());
    while (true) {
      SA_ASSIGN_OR_RETURN(const bool row, read.Step());
      if (!row) break;
      ids.push_back(read.GetText());
    }
  }
  std::vector<Expired> expired;
  if (ids.empty()) return expired;
  SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db_.get()));
  for (const std::string& id : ids) {
    SA_ASSIGN_OR_RETURN(TaskRecord task, ReadTask(id));
    task.error_code = static_cast<int>(absl::StatusCode::kDeadlineExceeded);
    task.error = absl::StrCat("worker \"", task.worker, "\" stopped renewing its lease");
    SA_RETURN_IF_ERROR(EndLease(&task, FailureKind::kRetry, "expired"));
    SA_RETURN_IF_ERROR(AddTaskEvent(task, "expired", task.error));
    SA_RETURN_IF_ERROR(FinishCancel(task.job_id));
    expired.push_back(
        {task.task_id, task.job_id, task.kind, task.worker, task.state == TaskState::kFailed});
  }
  SA_RETURN_IF_ERROR(Commit(transaction.get()));
  return expired;
}

// --- Workers -------------------------------------------------------------------------------------

absl::Status SqliteJobStore::WriteWorker(const LeaseQuery& worker) {
  Statement write(db_->get(),
                  "INSERT INTO workers (worker_id, device_class, memory, version, last_seen) "
                  "VALUES (?, ?, ?, ?, ?) ON CONFLICT (worker_id) DO UPDATE SET "
                  "device_class = excluded.device_class, memory = excluded.memory, "
                  "version = excluded.version, last_seen = excluded.last_seen");
  return write.Text(worker.worker)
      .Text(worker.device_class)
      .Int(static_cast<int64_t>(worker.memory_bytes))
      .Text(worker.version)
      .Int(Now())
      .Run();
}

absl::Status SqliteJobStore::TouchWorker(const LeaseQuery& worker) {
  std::lock_guard<std::mutex> hold(mutex_);
  SA_RETURN_IF_ERROR(WriteWorker(worker));
  Statement forget(db_->get(), "DELETE FROM workers WHERE last_seen < ?");
  return forget.Int(Now() - absl::ToInt64Microseconds(kWorkerMemory)).Run();
}

absl::StatusOr<std::vector<WorkerRecord>> SqliteJobStore::ListWorkers() {
  std::lock_guard<std::mutex> hold(mutex_);
  Statement read(db_->get(),
                 "SELECT w.worker_id, w.device_class, w.memory, w.version, w.last_seen, "
                 "COALESCE(t.task_id, ''), COALESCE(t.kind, 0) FROM workers w "
                 "LEFT JOIN tasks t ON t.worker = w.worker_id AND t.state = ? "
                 "WHERE w.last_seen >= ? ORDER BY w.worker_id, t.task_id");
  read.Int(static_cast<int>(TaskState::kRunning));
  read.Int(Now() - absl::ToInt64Microseconds(kWorkerMemory));
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
    if (workers.empty() || workers.back().worker_id != w.worker_id) workers.push_back(w);
  }
}

}  // namespace shiftadd
