// Leases of SqlJobStore: who gets a task, renewals, and the ways in which a lease ends.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/store/sql_job_store.h"
#include "services/store/sql_task_rows.h"

namespace shiftadd {
namespace {

using sql::Session;
using sql::Statement;

// A worker that was seen within this share of a lease time need not be written down as seen again.
constexpr double kSeenShare = 0.1;
// JobStates of which tasks are leased: QUEUED to PACKAGING.
constexpr char kServedStates[] = "1, 2, 3, 4, 5, 6, 7, 8";
static_assert(v1::JOB_STATE_QUEUED == 1 && v1::JOB_STATE_PACKAGING == 8);
constexpr size_t kJobsAtATime = 16;
constexpr size_t kMaxLosses = 16;
// Of an error; the whole one of the last loss is kept as well.
constexpr size_t kMaxLossBytes = 500;
// Each time a worker of another class was faster on a job that nobody had begun.
constexpr int kLeaseAttempts = 3;

absl::Status LeaseLost(const LeaseKey& key, const TaskRecord& task) {
  return absl::AbortedError(absl::StrCat("task ", key.task_id, ": lease lost: found epoch ",
                                         task.lease_epoch, " of worker \"", task.worker, "\" (",
                                         TaskStateName(task.state), "), named epoch ", key.epoch,
                                         " of worker \"", key.worker, "\""));
}

// Behind "task_id = ? AND state = ? AND lease_epoch = ? AND worker = ?".
void BindLease(const LeaseKey& key, Statement* statement) {
  statement->Text(key.task_id)
      .Int(static_cast<int>(TaskState::kRunning))
      .Int(static_cast<int64_t>(key.epoch))
      .Text(key.worker);
}

}  // namespace

// --- Getting and keeping one ---------------------------------------------------------------------

absl::Status SqlJobStore::ExtendLeases() {
  return db_->Write([&](Session& s) -> absl::Status {
    SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
    Statement write(s,
                    "UPDATE tasks SET deadline = ?, excused = ? WHERE state = ? AND deadline < ?");
    const int64_t deadline = now + absl::ToInt64Microseconds(policy_.lease);
    return write.Int(deadline)
        .Int(static_cast<int>(LeaseExcuse::kAway))
        .Int(static_cast<int>(TaskState::kRunning))
        .Int(deadline)
        .Run();
  });
}

absl::StatusOr<std::vector<SchedulableJob>> SqlJobStore::ReadJobsToServe(Session& s,
                                                                         size_t offset) {
  // Sorted as PickTask does, so that the first of them that has a task for the worker is the one.
  Statement read(
      s, absl::StrCat(
             "SELECT j.job_id, j.owner, COALESCE(o.turn, 0), j.priority, j.number, "
             "j.device_class, j.any_device, CASE WHEN o.turn IS NULL OR EXISTS (SELECT 1 FROM "
             "owners x WHERE x.turn >= o.turn AND x.owner <> o.owner) THEN 0 ELSE 1 END "
             "FROM jobs j LEFT JOIN owners o ON o.owner = j.owner WHERE j.state IN (",
             kServedStates,
             ") AND EXISTS (SELECT 1 FROM tasks t WHERE t.job_id = j.job_id AND t.state = ?) "
             "ORDER BY 3, 2, j.priority DESC, j.number LIMIT ? OFFSET ?"));
  read.Int(static_cast<int>(TaskState::kReady))
      .Int(static_cast<int64_t>(kJobsAtATime))
      .Int(static_cast<int64_t>(offset));
  std::vector<SchedulableJob> jobs;
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (!row) return jobs;
    SchedulableJob& job = jobs.emplace_back();
    job.job_id = read.GetText();
    job.owner = read.GetText();
    job.owner_turn = read.GetInt();
    job.priority = static_cast<int>(read.GetInt());
    job.age = read.GetInt();
    job.device_class = read.GetText();
    job.any_device = read.GetInt() != 0;
    job.owner_was_last = read.GetInt() != 0;
  }
}

absl::Status SqlJobStore::ReadOpenTasks(Session& s, SchedulableJob* job) {
  Statement read(s,
                 "SELECT task_id, kind, ordinal, lane, rank, state, lost_by FROM tasks "
                 "WHERE job_id = ? AND state IN (?, ?) ORDER BY number");
  read.Text(job->job_id)
      .Int(static_cast<int>(TaskState::kReady))
      .Int(static_cast<int>(TaskState::kRunning));
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (!row) return absl::OkStatus();
    SchedulableTask& task = job->tasks.emplace_back();
    task.task_id = read.GetText();
    task.kind = static_cast<v1::TaskKind>(read.GetInt());
    task.ordinal = static_cast<uint32_t>(read.GetInt());
    task.lane = static_cast<uint32_t>(read.GetInt());
    task.rank = static_cast<int>(read.GetInt());
    task.running = read.GetInt() == static_cast<int>(TaskState::kRunning);
    task.last_worker = read.GetText();
  }
}

absl::StatusOr<SqlJobStore::Asker> SqlJobStore::ReadAsker(Session& s, const LeaseQuery& query) {
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  Statement read(
      s,
      "SELECT COALESCE((SELECT task_id FROM tasks WHERE state = ? AND worker = ? AND "
      "lease_request = ? AND lease_request <> '' LIMIT 1), ''), "
      "COALESCE((SELECT standing FROM workers WHERE worker_id = ?), 0), "
      "CASE WHEN EXISTS (SELECT 1 FROM workers WHERE worker_id <> ? AND device_class = ? AND "
      "last_seen > ?) THEN 1 ELSE 0 END, "
      "CASE WHEN EXISTS (SELECT 1 FROM workers WHERE worker_id = ? AND device_class = ? AND "
      "memory = ? AND version = ? AND last_seen > ?) THEN 1 ELSE 0 END");
  read.Int(static_cast<int>(TaskState::kRunning)).Text(query.worker).Text(query.request_id);
  read.Text(query.worker);
  read.Text(query.worker)
      .Text(query.device_class)
      .Int(now - absl::ToInt64Microseconds(2 * policy_.lease));
  read.Text(query.worker)
      .Text(query.device_class)
      .Int(static_cast<int64_t>(query.memory_bytes))
      .Text(query.version)
      .Int(now - absl::ToInt64Microseconds(policy_.lease * kSeenShare));
  SA_RETURN_IF_ERROR(read.Step().status());
  Asker asker;
  asker.holds = read.GetText();
  asker.standing = static_cast<WorkerStanding>(read.GetInt());
  asker.others = read.GetInt() != 0;
  asker.known = read.GetInt() != 0;
  return asker;
}

absl::Status SqlJobStore::GrantLease(Session& s, const SchedulableJob& job, const LeaseQuery& query,
                                     TaskRecord* task) {
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  task->state = TaskState::kRunning;
  ++task->lease_epoch;
  task->worker = query.worker;
  task->lease_time = absl::FromUnixMicros(now);
  task->deadline = task->lease_time + policy_.lease;
  task->progress = 0;
  task->excuse = LeaseExcuse::kNone;
  Statement write(s,
                  "UPDATE tasks SET state = ?, lease_epoch = ?, worker = ?, lease_time = ?, "
                  "deadline = ?, progress = 0, excused = 0, lease_request = ? WHERE task_id = ?");
  SA_RETURN_IF_ERROR(write.Int(static_cast<int>(task->state))
                         .Int(static_cast<int64_t>(task->lease_epoch))
                         .Text(task->worker)
                         .Int(now)
                         .Int(absl::ToUnixMicros(task->deadline))
                         .Text(query.request_id)
                         .Text(task->task_id)
                         .Run());
  SA_RETURN_IF_ERROR(
      PinAndAddEvent(s, task->job_id, query.device_class, TaskEvent(*task, "leased", "")));
  if (job.owner_was_last) return absl::OkStatus();  // nobody else has had a turn since
  Statement turn(s,
                 "INSERT INTO owners (owner, turn) "
                 "SELECT owner, (SELECT COALESCE(MAX(turn), 0) + 1 FROM owners) FROM jobs "
                 "WHERE job_id = ? ON CONFLICT (owner) DO UPDATE SET turn = excluded.turn");
  return turn.Text(task->job_id).Run();
}

absl::StatusOr<std::optional<TaskRecord>> SqlJobStore::Regrant(Session& s, const LeaseQuery& query,
                                                               const std::string& task_id) {
  Statement find(s, absl::StrCat(kTaskColumns,
                                 "payload, result FROM tasks WHERE task_id = ? AND state = ? AND "
                                 "worker = ? AND lease_request = ?",
                                 s.For(sql::Lock::kWait)));
  find.Text(task_id)
      .Int(static_cast<int>(TaskState::kRunning))
      .Text(query.worker)
      .Text(query.request_id);
  SA_ASSIGN_OR_RETURN(const bool found, find.Step());
  if (!found) return std::nullopt;
  SA_ASSIGN_OR_RETURN(TaskRecord task, ReadTaskRow(&find));
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  task.deadline = absl::FromUnixMicros(now) + policy_.lease;
  SA_RETURN_IF_ERROR(WriteTask(s, task));
  return task;
}

absl::StatusOr<std::optional<TaskRecord>> SqlJobStore::LeaseFrom(Session& s,
                                                                 const LeaseQuery& query,
                                                                 bool others,
                                                                 std::vector<SchedulableJob>* job,
                                                                 std::string* idle_reason) {
  SA_RETURN_IF_ERROR(ReadOpenTasks(s, &job->front()));
  while (true) {
    const std::string task_id = PickTask(*job, query, others, idle_reason);
    if (task_id.empty()) return std::nullopt;
    Statement hold(
        s, absl::StrCat(kTaskColumns, "payload, result FROM tasks WHERE task_id = ? AND state = ?",
                        s.For(sql::Lock::kSkipLocked)));
    hold.Text(task_id).Int(static_cast<int>(TaskState::kReady));
    SA_ASSIGN_OR_RETURN(const bool held, hold.Step());
    if (!held) {  // somebody else is taking it
      for (SchedulableTask& task : job->front().tasks) task.running |= task.task_id == task_id;
      continue;
    }
    SA_ASSIGN_OR_RETURN(TaskRecord task, ReadTaskRow(&hold));
    SA_RETURN_IF_ERROR(hold.Run());
    SA_RETURN_IF_ERROR(GrantLease(s, job->front(), query, &task));
    return task;
  }
}

absl::StatusOr<LeaseOutcome> SqlJobStore::TryLease(Session& s, const LeaseQuery& query) {
  LeaseOutcome outcome;
  SA_ASSIGN_OR_RETURN(const Asker asker, ReadAsker(s, query));
  if (!asker.holds.empty()) {
    SA_ASSIGN_OR_RETURN(outcome.task, Regrant(s, query, asker.holds));
    outcome.repeated = outcome.task.has_value();
    if (outcome.repeated) return outcome;
  }
  if (asker.standing != WorkerStanding::kActive) {
    outcome.idle_reason = asker.standing == WorkerStanding::kCordoned ? "cordoned" : "drained";
    return outcome;
  }
  outcome.idle_reason = "idle";
  for (size_t offset = 0;; offset += kJobsAtATime) {
    SA_ASSIGN_OR_RETURN(const std::vector<SchedulableJob> jobs, ReadJobsToServe(s, offset));
    outcome.none_ready |= jobs.empty() && offset == 0;
    for (const SchedulableJob& job : jobs) {
      std::string reason;
      std::vector<SchedulableJob> one = {job};
      SA_ASSIGN_OR_RETURN(outcome.task, LeaseFrom(s, query, asker.others, &one, &reason));
      if (outcome.task.has_value()) {
        outcome.idle_reason.clear();
        if (!asker.known) SA_RETURN_IF_ERROR(WriteWorker(s, query));
        return outcome;
      }
      if (outcome.idle_reason == "idle") outcome.idle_reason = reason;
    }
    if (jobs.size() < kJobsAtATime) return outcome;
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
    SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
    Renewal renewal;
    renewal.deadline = absl::FromUnixMicros(now) + policy_.lease;
    const double share = progress > 0 ? std::min(progress, 1.0) : 0.0;  // NaN is none
    Statement write(s,
                    "UPDATE tasks SET deadline = ?, progress = ?, excused = 0 WHERE task_id = ? "
                    "AND state = ? AND lease_epoch = ? AND worker = ? RETURNING job_id");
    write.Int(absl::ToUnixMicros(renewal.deadline)).Real(share);
    BindLease(key, &write);
    SA_ASSIGN_OR_RETURN(const bool held, write.Step());
    if (!held) return NotLeased(s, key);
    renewal.job_id = write.GetText();
    SA_RETURN_IF_ERROR(write.Run());
    Statement read(s,
                   "SELECT j.state, COALESCE(w.standing, 0), COALESCE(w.last_seen, ?) FROM jobs j "
                   "LEFT JOIN workers w ON w.worker_id = ? WHERE j.job_id = ?");
    SA_RETURN_IF_ERROR(read.Int(now).Text(key.worker).Text(renewal.job_id).Step().status());
    renewal.cancel = static_cast<v1::JobState>(read.GetInt()) == v1::JOB_STATE_CANCELLING;
    renewal.cancel |= static_cast<WorkerStanding>(read.GetInt()) == WorkerStanding::kDraining;
    if (read.GetInt() > now - absl::ToInt64Microseconds(policy_.lease * kSeenShare)) return renewal;
    Statement seen(s, "UPDATE workers SET last_seen = ? WHERE worker_id = ?");
    SA_RETURN_IF_ERROR(seen.Int(now).Text(key.worker).Run());
    return renewal;
  });
}

// --- Ends ----------------------------------------------------------------------------------------

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

absl::Status SqlJobStore::NotLeased(Session& s, const LeaseKey& key) {
  const auto held = HoldLeased(s, key);
  if (!held.ok()) return held.status();
  return absl::UnavailableError(absl::StrCat("task ", key.task_id, ": its lease moves: try again"));
}

absl::StatusOr<bool> SqlJobStore::CompleteTask(const LeaseKey& key, const std::string& result,
                                               const std::vector<v1::JobEvent>& events) {
  return sql::Write(db_.get(), [&](Session& s) -> absl::StatusOr<bool> {
    SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
    Statement write(s,
                    "UPDATE tasks SET state = ?, end_time = ?, progress = 1, result = ? "
                    "WHERE task_id = ? AND state = ? AND lease_epoch = ? AND worker = ? "
                    "RETURNING job_id, kind");
    write.Int(static_cast<int>(TaskState::kDone)).Int(now).Blob(result);
    BindLease(key, &write);
    SA_ASSIGN_OR_RETURN(const bool held, write.Step());
    if (!held) {
      const auto present = ReadTask(s, key.task_id, /*hold=*/false);
      if (present.ok() && present->state == TaskState::kDone && present->lease_epoch == key.epoch &&
          present->worker == key.worker && present->result == result) {
        return false;
      }
      return NotLeased(s, key);
    }
    TaskRecord task;
    task.task_id = key.task_id;
    task.worker = key.worker;
    task.job_id = write.GetText();
    task.kind = static_cast<v1::TaskKind>(write.GetInt());
    SA_RETURN_IF_ERROR(write.Run());
    std::vector<v1::JobEvent> all = {TaskEvent(task, "done", "")};
    all.insert(all.end(), events.begin(), events.end());
    SA_ASSIGN_OR_RETURN(const v1::JobState state, AddEvents(s, task.job_id, all));
    // What waits behind a repair can be leased again.
    if (task.kind == v1::TASK_KIND_REPAIR) s.Announce(Change::kWork);
    if (state == v1::JOB_STATE_CANCELLING) SA_RETURN_IF_ERROR(FinishCancel(s, task.job_id));
    return true;
  });
}

absl::Status SqlJobStore::EndLease(Session& s, TaskRecord* task, FailureKind kind,
                                   const std::string& cause) {
  SA_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(s, task->job_id, /*hold=*/true));
  SA_ASSIGN_OR_RETURN(const int64_t now, s.Now());
  task->end_time = absl::FromUnixMicros(now);
  task->progress = 0;
  task->excuse = LeaseExcuse::kNone;
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
  s.Announce(Change::kWork);
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
    SA_RETURN_IF_ERROR(
        AddEvents(s, task.job_id, {TaskEvent(task, released ? "released" : "failed", message)})
            .status());
    SA_RETURN_IF_ERROR(FinishCancel(s, task.job_id));
    return task.state == TaskState::kFailed;
  });
}

absl::Status SqlJobStore::ExcuseEarlier(Session& s, const TaskRecord& task) {
  // Whoever holds one of them renews or completes it just now.
  Statement write(s, absl::StrCat("UPDATE tasks SET excused = ? WHERE task_id IN (SELECT task_id "
                                  "FROM tasks WHERE state = ? AND worker = ? AND lease_time < ? "
                                  "AND excused = ?",
                                  s.For(sql::Lock::kSkipLocked), ")"));
  return write.Int(static_cast<int>(LeaseExcuse::kBeside))
      .Int(static_cast<int>(TaskState::kRunning))
      .Text(task.worker)
      .Int(absl::ToUnixMicros(task.lease_time))
      .Int(static_cast<int>(LeaseExcuse::kNone))
      .Run();
}

absl::StatusOr<bool> SqlJobStore::WasBeside(Session& s, const TaskRecord& task) {
  if (!task.attempts.empty()) return false;
  if (task.excuse == LeaseExcuse::kBeside) return true;
  Statement later(s,
                  "SELECT 1 FROM tasks WHERE state = ? AND worker = ? AND lease_time > ? LIMIT 1");
  later.Int(static_cast<int>(TaskState::kRunning))
      .Text(task.worker)
      .Int(absl::ToUnixMicros(task.lease_time));
  return later.Step();
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
  const bool away = task.excuse == LeaseExcuse::kAway;
  SA_ASSIGN_OR_RETURN(const bool beside, WasBeside(s, task));
  SA_RETURN_IF_ERROR(ExcuseEarlier(s, task));
  task.error_code = static_cast<int>(absl::StatusCode::kDeadlineExceeded);
  task.error = absl::StrCat("worker \"", task.worker, "\" stopped renewing its lease",
                            away     ? " while no coordinator or no store was there"
                            : beside ? " while it stored this task and was at another"
                                     : "");
  SA_RETURN_IF_ERROR(EndLease(s, &task, away ? FailureKind::kReleased : FailureKind::kRetry,
                              beside ? kExpiredBesideCause : kExpiredCause));
  SA_RETURN_IF_ERROR(AddEvents(s, task.job_id, {TaskEvent(task, "expired", task.error)}).status());
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

}  // namespace shiftadd
