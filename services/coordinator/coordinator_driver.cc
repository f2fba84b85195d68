// The steps that the coordinator takes by itself.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/base/trace.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/planner.h"
#include "services/coordinator/progress.h"
#include "services/coordinator/publish.h"
#include "services/coordinator/refine_plan.h"
#include "services/coordinator/repair.h"

namespace shiftadd::coordinator {
namespace {

constexpr absl::Duration kBackOff = absl::Seconds(2);
constexpr absl::Duration kProgressPeriod = absl::Seconds(1);
// A job of which nobody does anything.
constexpr absl::Duration kIdlePeriod = absl::Seconds(10);
constexpr double kProgressStep = 0.002;
// More steps in a row than a job has states: something goes in circles.
constexpr int kMaxSteps = 16;

bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

// Changes whenever planning could come to another answer.
std::string Signature(const JobRecord& record, const std::vector<TaskRecord>& tasks) {
  int counts[6] = {};
  for (const TaskRecord& t : tasks) ++counts[static_cast<int>(t.state)];
  return absl::StrCat(record.revision, "/", tasks.size(), "/",
                      counts[static_cast<int>(TaskState::kDone)], "/",
                      counts[static_cast<int>(TaskState::kFailed)]);
}

TaskCounts CountsOf(const std::vector<TaskRecord>& tasks) {
  TaskCounts counts;
  for (const TaskRecord& t : tasks) ++counts[{t.kind, t.state}];
  return counts;
}

int CountOf(const TaskCounts& counts, v1::TaskKind kind, TaskState state) {
  const auto found = counts.find({kind, state});
  return found == counts.end() ? 0 : found->second;
}

// Kinds of which the planner waits for all tasks: while some are open the end of one plans nothing,
// and what it has stored can be pinned with the next ones'.
bool PlannedTogether(v1::TaskKind kind) {
  return kind == v1::TASK_KIND_FORWARD || kind == v1::TASK_KIND_PROFILE ||
         kind == v1::TASK_KIND_MEASURE || kind == v1::TASK_KIND_EVALUATE;
}

// Whether planning could come to another answer than it did at `before`.
bool MayPlan(const TaskCounts& before, const TaskCounts& now) {
  std::set<v1::TaskKind> kinds;
  for (const TaskCounts* counts : {&before, &now}) {
    for (const auto& [key, count] : *counts) kinds.insert(key.first);
  }
  for (const v1::TaskKind kind : kinds) {
    for (const TaskState ended : {TaskState::kDone, TaskState::kFailed, TaskState::kCancelled}) {
      if (CountOf(before, kind, ended) == CountOf(now, kind, ended)) continue;
      const bool open =
          CountOf(now, kind, TaskState::kReady) > 0 || CountOf(now, kind, TaskState::kRunning) > 0;
      if (ended != TaskState::kDone || !open || !PlannedTogether(kind)) return true;
    }
  }
  return false;
}

bool AnyRunning(const TaskCounts& counts) {
  return std::any_of(counts.begin(), counts.end(),
                     [](const auto& entry) { return entry.first.second == TaskState::kRunning; });
}

}  // namespace

absl::Status Coordinator::Tick() {
  std::lock_guard<std::mutex> hold(tick_mutex_);
  SA_ASSIGN_OR_RETURN(const std::vector<Expired> expired, store_->ReapExpired());
  for (const Expired& e : expired) {
    spdlog::warn("{}: lease of worker {} expired{}", e.task_id, e.worker,
                 e.failed ? "; that was the last attempt" : "");
    if (options_.observer.lease_expired) options_.observer.lease_expired();
    if (!e.failed && options_.observer.task_retried) options_.observer.task_retried("expired");
  }
  SA_ASSIGN_OR_RETURN(const std::vector<JobMark> jobs, store_->MarksOfJobsNeedingWork());
  std::set<std::string> present;
  for (const JobMark& mark : jobs) {
    present.insert(mark.job_id);
    const absl::Status status = StepJob(mark);
    if (absl::IsNotFound(status)) continue;  // deleted meanwhile
    NoteFault(mark.job_id, status);
  }
  for (auto it = memory_.begin(); it != memory_.end();) {
    it = present.count(it->first) == 0 ? memory_.erase(it) : std::next(it);
  }
  return absl::OkStatus();
}

Coordinator::Memory& Coordinator::MemoryOf(const std::string& job_id) { return memory_[job_id]; }

void Coordinator::NoteFault(const std::string& job_id, const absl::Status& status) {
  Memory& memory = MemoryOf(job_id);
  if (status.ok()) {
    memory.last_fault.clear();
    return;
  }
  memory.signature.clear();
  memory.wait_until = clock_->Now() + kBackOff;
  const std::string text = status.ToString();
  if (text == memory.last_fault) return;  // said once, not every two seconds
  memory.last_fault = text;
  spdlog::warn("{}: waits: {}", job_id, text);
  v1::JobEvent event;
  event.set_log(absl::StrCat("waiting, will try again: ", status.message()));
  store_->AppendEvents(job_id, {event}).IgnoreError();
}

absl::StatusOr<bool> Coordinator::NeedsLook(const JobMark& mark, const Memory& memory) {
  if (clock_->Now() >= memory.look_again || mark.revision != memory.mark.revision) return true;
  if (mark.last_sequence == memory.mark.last_sequence) return false;
  SA_ASSIGN_OR_RETURN(const TaskCounts counts, store_->CountTasksOf(mark.job_id));
  return MayPlan(memory.counts, counts);
}

absl::Status Coordinator::StepJob(const JobMark& mark) {
  const std::string& job_id = mark.job_id;
  const LogScope fields(LogFields{{"job", job_id}});
  Memory& memory = MemoryOf(job_id);
  const absl::Time now = clock_->Now();
  if (now < memory.wait_until) return absl::OkStatus();
  // A look costs a read of all its tasks: with hundreds of jobs in the queue most are skipped.
  SA_ASSIGN_OR_RETURN(const bool look, NeedsLook(mark, memory));
  if (!look) {
    // Seldom looked at while nobody worked on it; who works makes progress without a word.
    if (mark.last_sequence != memory.mark.last_sequence) {
      memory.look_again = std::min(memory.look_again, now + kProgressPeriod);
    }
    memory.mark = mark;
    return absl::OkStatus();
  }
  memory.look_again = absl::InfinitePast();
  for (int i = 0; i < kMaxSteps; ++i) {
    SA_ASSIGN_OR_RETURN(const bool again, StepOnce(job_id));
    if (again) continue;
    memory.mark = mark;
    memory.look_again = now + (AnyRunning(memory.counts) ? kProgressPeriod : kIdlePeriod);
    return absl::OkStatus();
  }
  return absl::OkStatus();  // the rest at the next tick
}

absl::StatusOr<bool> Coordinator::StepOnce(const std::string& job_id) {
  SA_ASSIGN_OR_RETURN(const JobRecord record, store_->GetJob(job_id));
  // What the packager is asked for it belongs to the job's trace too.
  const TraceScope trace(CallTraceOf(record.job.trace_id()));
  if (IsTerminal(record.job.state())) {
    SA_RETURN_IF_ERROR(CleanUp(record));
    return false;
  }
  SA_ASSIGN_OR_RETURN(const std::vector<TaskRecord> tasks, store_->ListTasks(job_id, false));
  const std::string signature = Signature(record, tasks);
  MemoryOf(job_id).counts = CountsOf(tasks);
  if (signature == MemoryOf(job_id).signature) {
    SA_RETURN_IF_ERROR(EmitProgress(record.job, tasks));
    return false;
  }
  SA_ASSIGN_OR_RETURN(const JobView view, JobView::Read(store_, job_id));
  FreeScratch(view);
  if (OpenRepairs(view) > 0) {  // nothing is sure until they are done
    MemoryOf(job_id).signature = signature;
    SA_RETURN_IF_ERROR(EmitProgress(record.job, tasks));
    if (view.FirstFailed() == nullptr) return false;
  }
  const absl::Status pinned = PinNew(view);
  if (absl::IsNotFound(pinned) && view.FirstFailed() == nullptr) {
    SA_ASSIGN_OR_RETURN(const std::optional<JobUpdate> repair, RepairMissing(view));
    if (repair.has_value()) return Apply(*repair);
  }
  const v1::JobState state = view.job().state();
  // Workers need not wait for the packager; what is chosen from here on must be safe.
  if (!pinned.ok() && (state == v1::JOB_STATE_ALLOCATING || state == v1::JOB_STATE_PACKAGING)) {
    if (MayPass(pinned)) return pinned;
    return Apply(FailJob(view, std::string(pinned.message())));
  }
  if (state == v1::JOB_STATE_PACKAGING && view.FirstFailed() == nullptr) return Package(view);
  PlanContext context;
  SA_ASSIGN_OR_RETURN(context.workers, WorkersFor(view.job()));
  context.blob_sizes = Sizes();
  context.package = [this](const std::string& reference) {
    absl::StatusOr<v1::Package> package = publisher_->GetPackage(reference);
    if (!package.ok()) package = Annotate(package.status(), "packager");
    return package;
  };
  context.quantizer_version = options_.quantizer_version;
  SA_ASSIGN_OR_RETURN(const std::optional<JobUpdate> update, PlanNext(view, context));
  if (update.has_value()) return Apply(*update);
  if (pinned.ok()) MemoryOf(job_id).signature = signature;
  SA_RETURN_IF_ERROR(EmitProgress(record.job, tasks));
  if (!pinned.ok() && !MayPass(pinned)) return Apply(FailJob(view, std::string(pinned.message())));
  SA_RETURN_IF_ERROR(pinned);
  return false;
}

absl::StatusOr<bool> Coordinator::Apply(const JobUpdate& update) {
  const auto record = store_->UpdateJob(update);
  // Somebody (a cancel) was faster: look again.
  if (absl::IsAborted(record.status())) return true;
  SA_RETURN_IF_ERROR(record.status());
  if (record->job.state() == v1::JOB_STATE_FAILED) {
    spdlog::warn("{}: failed: {}", record->job.job_id(), record->job.error());
  } else {
    spdlog::info("{}: {}", record->job.job_id(), v1::JobState_Name(record->job.state()));
  }
  return true;
}

absl::Status Coordinator::Publish(const JobView& view, v1::Job* job) {
  if (!job->spec().evaluated_package().empty()) return AttachEvaluation(*job);
  SA_ASSIGN_OR_RETURN(v1::PublishPackageRequest request, ComposePublish(view, publisher_));
  if (options_.owners_are_known) request.set_owner(job->owner());
  SA_ASSIGN_OR_RETURN(*job->mutable_package_digest(), publisher_->Publish(request));
  job->mutable_quality()->set_package_bytes(PackageBytes(request));
  return absl::OkStatus();
}

absl::StatusOr<bool> Coordinator::Package(const JobView& view) {
  JobUpdate update;
  update.job = view.job();
  update.expected_revision = view.record().revision;
  if (const absl::Status status = Publish(view, &update.job); !status.ok()) {
    if (MayPass(status)) return Annotate(status, "packager");
    SA_ASSIGN_OR_RETURN(const std::optional<JobUpdate> repair, RepairMissing(view));
    if (repair.has_value()) return Apply(*repair);
    return Apply(FailJob(view, absl::StrCat("packaging: ", status.message())));
  }
  if (!update.job.package_digest().empty()) {
    v1::JobEvent event;
    event.set_package_digest(update.job.package_digest());
    update.events.push_back(event);
  }
  update.job.set_state(v1::JOB_STATE_SUCCEEDED);
  return Apply(update);
}

absl::StatusOr<std::optional<JobUpdate>> Coordinator::RepairMissing(const JobView& view) {
  std::vector<std::string> missing;
  for (const std::string& digest : view.KeptBlobs()) {
    if (absl::IsNotFound(publisher_->BlobSize(digest).status())) missing.push_back(digest);
  }
  auto repair = PlanRepair(view, missing);
  // The job fails with what the packager said.
  if (!repair.ok()) return std::nullopt;
  if (repair->has_value()) MemoryOf(view.job().job_id()).pinned.clear();
  return repair;
}

absl::Status Coordinator::PinNew(const JobView& view) {
  Memory& memory = MemoryOf(view.job().job_id());
  std::vector<std::string> fresh;
  for (const std::string& digest : view.KeptBlobs()) {
    if (memory.pinned.count(digest) == 0) fresh.push_back(digest);
  }
  if (fresh.empty()) return absl::OkStatus();
  SA_RETURN_IF_ERROR(Annotate(publisher_->Pin(view.job().job_id(), fresh), "packager"));
  memory.pinned.insert(fresh.begin(), fresh.end());
  return absl::OkStatus();
}

void Coordinator::FreeScratch(const JobView& view) {
  if (scratch_ == nullptr) return;
  Memory& memory = MemoryOf(view.job().job_id());
  for (const std::string& digest : ObsoleteScratch(view)) {
    if (!memory.freed.insert(digest).second) continue;
    const absl::Status status = scratch_->DeleteScratchBlob(view.job().job_id(), digest);
    // It costs space until the job ends, nothing else.
    if (!status.ok()) spdlog::warn("{}: scratch: {}", view.job().job_id(), status.ToString());
  }
}

absl::Status Coordinator::CleanUp(const JobRecord& record) {
  // A FAILED job keeps its scratch: a retry goes on from it.
  if (record.cleaned || record.job.state() == v1::JOB_STATE_FAILED) return absl::OkStatus();
  if (scratch_ != nullptr) SA_RETURN_IF_ERROR(scratch_->DeleteScratch(record.job.job_id()));
  if (!record.job.spec().evaluated_package().empty()) {
    // It pinned what somebody else has published. A packager that is away keeps the pins for a
    // week at most.
    publisher_->Unpin(record.job.job_id()).IgnoreError();
  }
  return store_->MarkCleaned(record.job.job_id());
}

absl::Status Coordinator::EmitProgress(const v1::Job& job, const std::vector<TaskRecord>& tasks) {
  Memory& memory = MemoryOf(job.job_id());
  if (clock_->Now() - memory.last_progress < kProgressPeriod) return absl::OkStatus();
  v1::JobEvent event;
  *event.mutable_progress() = Progress(job, tasks);
  if (std::abs(event.progress().ratio() - memory.last_ratio) < kProgressStep) {
    return absl::OkStatus();
  }
  memory.last_progress = clock_->Now();
  memory.last_ratio = event.progress().ratio();
  const absl::Status status = store_->AppendEvents(job.job_id(), {event});
  return absl::IsFailedPrecondition(status) ? absl::OkStatus() : status;  // it has just ended
}

absl::StatusOr<int> Coordinator::WorkersFor(const v1::Job& job) {
  SA_ASSIGN_OR_RETURN(const std::vector<WorkerRecord> workers, store_->ListWorkers());
  const absl::Time since = clock_->Now() - 2 * options_.lease;
  return static_cast<int>(std::count_if(workers.begin(), workers.end(), [&](const WorkerRecord& w) {
    return w.last_seen >= since &&
           (job.spec().any_device() || w.device_class == job.device_class());
  }));
}

}  // namespace shiftadd::coordinator
