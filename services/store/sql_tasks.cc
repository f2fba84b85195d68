// Rows of tasks and workers of SqlJobStore. What becomes of leases is in sql_leases.cc.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/store/sql_job_store.h"
#include "services/store/sql_task_rows.h"

namespace shiftadd {
namespace {

using sql::Session;
using sql::Statement;

constexpr absl::Duration kWorkerMemory = absl::Hours(1);

absl::StatusOr<TaskCounts> ReadCounts(Statement* read) {
  TaskCounts counts;
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, read->Step());
    if (!row) return counts;
    const auto kind = static_cast<v1::TaskKind>(read->GetInt());
    const auto state = static_cast<TaskState>(read->GetInt());
    counts[{kind, state}] = static_cast<int>(read->GetInt());
  }
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
      .Int(static_cast<int>(task.excuse))
      .Text(LossesJson(task.losses))
      .Blob(task.result)
      .Text(task.task_id)
      .Run();
}

absl::Status SqlJobStore::AddTasks(Session& s, const std::string& job_id,
                                   const std::vector<NewTask>& tasks) {
  for (size_t first = 0; first < tasks.size(); first += sql::kRowsAtATime) {
    const size_t count = std::min(sql::kRowsAtATime, tasks.size() - first);
    Statement write(
        s, absl::StrCat("INSERT INTO tasks (task_id, job_id, kind, ordinal, lane, rank, state, "
                        "lease_epoch, deadline, worker, lost_by, attempts, progress, lease_time, "
                        "end_time, error_code, error, payload, result) VALUES ",
                        sql::ValueRows(
                            "(?, ?, ?, ?, ?, ?, ?, 0, 0, ?, '', '{}', ?, 0, 0, 0, ?, ?, ?)", count),
                        " ON CONFLICT (job_id, kind, ordinal) DO NOTHING"));
    for (size_t i = first; i < first + count; ++i) {
      const NewTask& task = tasks[i];
      const bool done = !task.result.empty();
      write.Text(NewId("task"))
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
          .Blob(task.result);
    }
    SA_RETURN_IF_ERROR(write.Run());
  }
  if (!tasks.empty()) s.Announce(Change::kWork);
  return absl::OkStatus();
}

v1::JobEvent SqlJobStore::TaskEvent(const TaskRecord& task, const char* change,
                                    const std::string& detail) {
  v1::JobEvent event;
  v1::TaskEvent* e = event.mutable_task();
  e->set_task_id(task.task_id);
  e->set_kind(v1::TaskKind_Name(task.kind).substr(sizeof("TASK_KIND_") - 1));
  e->set_worker(task.worker);
  e->set_change(change);
  e->set_detail(detail);
  return event;
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

absl::StatusOr<TaskCounts> SqlJobStore::CountTasks() {
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<TaskCounts> {
    Statement read(s, "SELECT kind, state, COUNT(*) FROM tasks GROUP BY kind, state");
    return ReadCounts(&read);
  });
}

absl::StatusOr<TaskCounts> SqlJobStore::CountTasksOf(const std::string& job_id) {
  return sql::Read(db_.get(), [&](Session& s) -> absl::StatusOr<TaskCounts> {
    Statement read(s,
                   "SELECT kind, state, COUNT(*) FROM tasks WHERE job_id = ? GROUP BY kind, state");
    read.Text(job_id);
    return ReadCounts(&read);
  });
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

absl::Status SqlJobStore::SetStanding(const std::string& worker, WorkerStanding standing) {
  return db_->Write([&](Session& s) -> absl::Status {
    Statement write(s, "UPDATE workers SET standing = ? WHERE worker_id = ?");
    SA_RETURN_IF_ERROR(write.Int(static_cast<int>(standing)).Text(worker).Run());
    if (s.Changes() == 0) {
      return absl::NotFoundError(absl::StrCat("worker \"", worker, "\" is not known"));
    }
    s.Announce(Change::kWork);  // who is active again may have a task at once
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
