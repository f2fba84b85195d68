// What users ask.
#include "services/coordinator/coordinator.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/ids.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/base/trace.h"
#include "services/coordinator/criterion.h"
#include "services/coordinator/job_spec.h"
#include "services/coordinator/planner.h"
#include "services/coordinator/progress.h"

namespace shiftadd::coordinator {
namespace {

constexpr size_t kMaxRequestId = 64;
constexpr int kDefaultPage = 50;
constexpr int kMaxPage = 500;
constexpr int kEventsAtATime = 256;
constexpr int kRetryUpdates = 16;  // against a driver that is faster each time
// A watcher looks at its connection this often while nothing happens, and this often at the store
// although it has heard of nothing.
constexpr absl::Duration kWatchWait = absl::Milliseconds(500);
constexpr absl::Duration kWatchPoll = absl::Seconds(5);
constexpr int kDefaultFailedJobs = 10;
constexpr uint32_t kMostFailedJobs = 100;

// The same for equal requests: map entries of a message have no order of their own.
std::string Fingerprint(const v1::SubmitJobRequest& request) {
  v1::JobSpec spec = request.spec();
  std::string text;
  std::map<std::string, std::string> labels(spec.labels().begin(), spec.labels().end());
  for (const auto& [key, value] : labels) {
    absl::StrAppend(&text, key.size(), ":", key, value.size(), ":", value);
  }
  spec.clear_labels();
  return absl::StrCat(request.validate_only(), "|", text, "|", spec.SerializeAsString());
}

// The width whose error stands for the job in progress views.
double TypicalWidth(const v1::JobSpec& spec) {
  switch (spec.budget().limit_case()) {
    case v1::Budget::kPlanes:
      return spec.budget().planes();
    case v1::Budget::kStoredBits:
      return spec.budget().stored_bits() - 0.2;
    default:
      return spec.recipe().candidate_bits(spec.recipe().candidate_bits_size() / 2);
  }
}

// Of this job's own tasks, not of what it took over.
void AddTaskSeconds(const JobView& view, v1::JobReport* report) {
  for (const ViewedTask& t : view.tasks()) {
    if (t.record.state != TaskState::kDone || t.record.inherited()) continue;
    const double seconds = absl::ToDoubleSeconds(t.record.end_time - t.record.lease_time);
    (*report->mutable_worker_seconds())[t.record.worker] += seconds;
    const std::string kind = v1::TaskKind_Name(t.record.kind).substr(sizeof("TASK_KIND_") - 1);
    (*report->mutable_kind_seconds())[kind] += seconds;
    for (const auto& [stage, in_stage] : t.result.stage_seconds()) {
      (*report->mutable_stage_seconds())[stage] += in_stage;
    }
  }
}

}  // namespace

Coordinator::Coordinator(JobStore* store, Publisher* publisher, BlobStore* scratch,
                         const Clock* clock, CoordinatorOptions options)
    : store_(store),
      publisher_(publisher),
      scratch_(scratch),
      clock_(clock),
      options_(std::move(options)),
      watch_hub_(store) {}

void Coordinator::CheckRequestId(const std::string& id, std::vector<FieldFault>* faults) {
  const bool good =
      id.size() <= kMaxRequestId && std::all_of(id.begin(), id.end(), [](unsigned char c) {
        return c < 0x80 && (std::isalnum(c) || c == '_' || c == '-');
      });
  if (!good) faults->push_back({"request_id", "expected up to 64 letters, digits, _ and -"});
}

absl::Status Coordinator::CheckQuota(const std::string& owner, const std::string& request_id,
                                     const std::string& fingerprint) {
  if (options_.max_jobs <= 0 && options_.max_jobs_per_owner <= 0) return absl::OkStatus();
  if (!request_id.empty()) {
    SA_ASSIGN_OR_RETURN(const auto made, store_->FindRequest(owner, request_id, fingerprint));
    if (made.has_value()) return absl::OkStatus();
  }
  int all = 0;
  SA_ASSIGN_OR_RETURN(const auto counts, store_->CountJobs());
  for (const auto& [state, count] : counts) all += IsTerminal(state) ? 0 : count;
  if (options_.max_jobs > 0 && all >= options_.max_jobs) {
    return absl::ResourceExhaustedError(absl::StrCat(
        all, " jobs have not ended, at most ", options_.max_jobs, " may (--max-jobs): try later"));
  }
  if (options_.max_jobs_per_owner <= 0 || all < options_.max_jobs_per_owner) {
    return absl::OkStatus();
  }
  int own = 0;
  SA_ASSIGN_OR_RETURN(const std::vector<std::string> ids, store_->JobsNeedingWork());
  for (const std::string& id : ids) {
    const absl::StatusOr<JobRecord> record = store_->GetJob(id);
    if (record.ok() && record->job.owner() == owner && !IsTerminal(record->job.state())) ++own;
  }
  if (own < options_.max_jobs_per_owner) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(owner, " has ", own, " jobs that have not ended, at most ",
                   options_.max_jobs_per_owner, " may be one owner's (--max-jobs-per-owner)"));
}

absl::Status Coordinator::CheckOutput(const std::string& owner, const NewJob& job) {
  if (!options_.owners_are_known) return absl::OkStatus();
  SA_ASSIGN_OR_RETURN(const auto made, store_->FindRequest(owner, job.request_id, job.fingerprint));
  if (made.has_value()) return absl::OkStatus();
  const std::string& output = job.job.spec().output();
  const absl::StatusOr<v1::Package> package = publisher_->GetPackage(output);
  if (!package.ok() || package->owner().empty() || package->owner() == owner) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat("spec.output: tag ", output, " belongs to ",
                                                  package->owner(), ", a job of ", owner,
                                                  " cannot move it: publish under another name"));
}

absl::StatusOr<v1::Job> Coordinator::Submit(const v1::SubmitJobRequest& request,
                                            const std::string& owner,
                                            std::vector<FieldFault>* faults) {
  NewJob job;
  *job.job.mutable_spec() = request.spec();
  *faults = ResolveSpec(job.job.mutable_spec());
  for (FieldFault& fault : *faults) fault.field = "spec." + fault.field;
  if (!request.spec().parent_job_id().empty()) {
    faults->push_back({"spec.parent_job_id", "expected it unset: PublishBudget sets it"});
  }
  if (!request.spec().evaluated_package().empty()) {
    faults->push_back({"spec.evaluated_package", "expected it unset: EvaluatePackage sets it"});
  }
  CheckRequestId(request.request_id(), faults);
  if (!faults->empty()) return absl::InvalidArgumentError(FaultMessage(*faults));
  job.job.set_job_id(NewId("job"));
  job.job.set_owner(owner);
  job.job.set_state(v1::JOB_STATE_QUEUED);
  job.job.set_validate_only(request.validate_only());
  job.job.set_trace_id(ThisTraceId());
  job.request_id = request.request_id();
  job.fingerprint = Fingerprint(request);
  job.quantizer_version = options_.quantizer_version;
  SA_RETURN_IF_ERROR(CheckQuota(owner, job.request_id, job.fingerprint));
  SA_RETURN_IF_ERROR(CheckOutput(owner, job));
  SA_ASSIGN_OR_RETURN(JobRecord record, store_->CreateJob(job));
  if (record.job.job_id() == job.job.job_id()) {
    spdlog::info("{}: submitted by {}: {}", record.job.job_id(), owner, job.job.spec().source());
  }
  return WithProgress(std::move(record));
}

absl::StatusOr<v1::Job> Coordinator::Get(const std::string& job_id) {
  SA_ASSIGN_OR_RETURN(JobRecord record, store_->GetJob(job_id));
  return WithProgress(std::move(record));
}

absl::StatusOr<v1::ListJobsResponse> Coordinator::List(const v1::ListJobsRequest& request) {
  if (request.page_size() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("page_size: found ", request.page_size(), ", expected 0 to ", kMaxPage));
  }
  const int size =
      request.page_size() == 0 ? kDefaultPage : std::min(request.page_size(), kMaxPage);
  v1::ListJobsResponse response;
  SA_ASSIGN_OR_RETURN(
      std::vector<JobRecord> records,
      store_->ListJobs(size, request.page_token(), response.mutable_next_page_token()));
  for (JobRecord& record : records) {
    SA_ASSIGN_OR_RETURN(*response.add_jobs(), WithProgress(std::move(record)));
  }
  return response;
}

absl::StatusOr<v1::Job> Coordinator::Cancel(const std::string& job_id) {
  SA_ASSIGN_OR_RETURN(JobRecord record, store_->CancelJob(job_id));
  return WithProgress(std::move(record));
}

absl::StatusOr<v1::Job> Coordinator::Retry(const std::string& job_id) {
  SA_ASSIGN_OR_RETURN(JobRecord record, store_->RetryJob(job_id));
  // What is done was made from the source as it was; an operator may have swapped it meanwhile.
  for (int i = 0; i < kRetryUpdates; ++i) {
    SA_ASSIGN_OR_RETURN(const JobView view, JobView::Read(store_, job_id));
    const auto& files = view.job().plan().source_files();
    if (view.job().state() == v1::JOB_STATE_PACKAGING || IsTerminal(view.job().state()) ||
        files.empty() || files[0].digest().empty()) {
      break;
    }
    absl::StatusOr<JobRecord> updated = store_->UpdateJob(CheckSourceAgain(view));
    if (absl::IsAborted(updated.status())) continue;  // the driver took a step meanwhile
    SA_RETURN_IF_ERROR(updated.status());
    record = *std::move(updated);
    break;
  }
  return WithProgress(std::move(record));
}

absl::Status Coordinator::Delete(const std::string& job_id) {
  SA_ASSIGN_OR_RETURN(const JobRecord record, store_->GetJob(job_id));
  if (IsTerminal(record.job.state())) {
    // First what lies elsewhere: once the row is gone nobody knows of it any more.
    SA_RETURN_IF_ERROR(Annotate(publisher_->Unpin(job_id), "packager"));
    if (scratch_ != nullptr) SA_RETURN_IF_ERROR(scratch_->DeleteScratch(job_id));
  }
  return store_->DeleteJob(job_id);
}

absl::StatusOr<v1::JobReport> Coordinator::Report(const std::string& job_id) {
  SA_ASSIGN_OR_RETURN(const JobView view, JobView::Read(store_, job_id));
  v1::JobReport report;
  SA_ASSIGN_OR_RETURN(*report.mutable_job(), WithProgress(view.record()));
  std::map<std::string, uint32_t> chosen;
  const std::vector<v1::Variant> variants = view.Variants();
  if (const v1::Variant* variant = view.Chosen(variants)) {
    for (const v1::VariantLayer& layer : variant->layers()) chosen[layer.layer()] = layer.bits();
  }
  ReportMap layers = view.Reports();
  // While candidates are missing the workers' own figures stay.
  FillImportance(view.job().spec().criterion(), &layers).IgnoreError();
  for (const v1::LayerPlan& layer : view.job().plan().layers()) {
    const auto found = layers.find(layer.name());
    if (found == layers.end()) continue;
    v1::LayerReport* out = report.add_layers();
    *out = std::move(found->second);
    out->set_chosen_bits(chosen[layer.name()]);
  }
  AddTaskSeconds(view, &report);
  SA_ASSIGN_OR_RETURN(const auto events, store_->Events(job_id, 1, 1'000'000));
  absl::Time since;
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  for (const v1::JobEvent& event : events) {
    if (event.event_case() != v1::JobEvent::kState) continue;
    const absl::Time time =
        absl::FromUnixSeconds(event.time().seconds()) + absl::Nanoseconds(event.time().nanos());
    if (state != v1::JOB_STATE_UNSPECIFIED && !IsTerminal(state)) {
      (*report
            .mutable_state_seconds())[v1::JobState_Name(state).substr(sizeof("JOB_STATE_") - 1)] +=
          absl::ToDoubleSeconds(time - since);
    }
    state = event.state();
    since = time;
  }
  return report;
}

absl::StatusOr<std::vector<v1::WorkerInfo>> Coordinator::Workers() {
  SA_ASSIGN_OR_RETURN(const std::vector<WorkerRecord> records, store_->ListWorkers());
  SA_ASSIGN_OR_RETURN(const std::vector<std::string> active, store_->JobsNeedingWork());
  std::set<std::string> wanted;  // device classes that running jobs are pinned to
  bool any = false;
  for (const std::string& id : active) {
    const auto record = store_->GetJob(id);
    if (!record.ok() || IsTerminal(record->job.state())) continue;
    any = any || record->job.spec().any_device() || record->job.device_class().empty();
    wanted.insert(record->job.device_class());
  }
  std::vector<v1::WorkerInfo> workers;
  for (const WorkerRecord& r : records) {
    v1::WorkerInfo& w = workers.emplace_back();
    w.set_worker_id(r.worker_id);
    w.set_device_class(r.device_class);
    w.set_memory_bytes(r.memory_bytes);
    w.set_version(r.version);
    w.set_task_id(r.task_id);
    w.mutable_last_seen()->set_seconds(absl::ToUnixSeconds(r.last_seen));
    if (!r.task_id.empty()) {
      w.set_task_kind(v1::TaskKind_Name(r.task_kind).substr(sizeof("TASK_KIND_") - 1));
    }
    const bool lost = clock_->Now() - r.last_seen > 2 * options_.lease;
    const bool other = !any && !wanted.empty() && wanted.count(r.device_class) == 0;
    const bool other_version = !r.version.empty() && r.version != options_.quantizer_version;
    const char* standing = r.standing == WorkerStanding::kCordoned   ? "cordoned, "
                           : r.standing == WorkerStanding::kDraining ? "drained, "
                                                                     : "";
    w.set_state(absl::StrCat(standing, lost                 ? "lost"
                                       : !r.task_id.empty() ? "busy"
                                       : other_version      ? "idle: another quantizer version"
                                       : other              ? "idle: another device class"
                                                            : "idle"));
  }
  return workers;
}

absl::Status Coordinator::FillStatus(int failed_jobs, v1::ClusterStatus* status) {
  SA_ASSIGN_OR_RETURN(const auto jobs, store_->CountJobs());
  for (const auto& [state, count] : jobs) {
    v1::JobCount* of_state = status->add_jobs();
    of_state->set_state(state);
    of_state->set_count(static_cast<uint32_t>(count));
  }
  SA_ASSIGN_OR_RETURN(const std::vector<JobRecord> failed, store_->ListFailedJobs(failed_jobs));
  for (const JobRecord& record : failed) {
    v1::FailedJob* job = status->add_failed();
    job->set_job_id(record.job.job_id());
    job->set_output(record.job.spec().output());
    job->set_error(record.job.error());
    *job->mutable_end_time() = record.job.end_time();
  }
  SA_ASSIGN_OR_RETURN(const TaskCounts tasks, store_->CountTasks());
  for (const auto& [key, count] : tasks) {
    const auto add = static_cast<uint32_t>(count);
    if (key.second == TaskState::kReady) status->set_tasks_ready(status->tasks_ready() + add);
    if (key.second == TaskState::kRunning) status->set_tasks_running(status->tasks_running() + add);
  }
  SA_ASSIGN_OR_RETURN(const std::vector<v1::WorkerInfo> workers, Workers());
  for (const v1::WorkerInfo& worker : workers) *status->add_workers() = worker;
  return absl::OkStatus();
}

v1::ClusterStatus Coordinator::Status(const v1::GetClusterStatusRequest& request) {
  const int failed_jobs = request.failed_jobs() == 0
                              ? kDefaultFailedJobs
                              : static_cast<int>(std::min(request.failed_jobs(), kMostFailedJobs));
  v1::ClusterStatus status;
  const absl::Status fault = FillStatus(failed_jobs, &status);
  if (fault.ok()) return status;
  status.Clear();  // half of it would look like the whole
  status.set_store_fault(std::string(fault.message()));
  return status;
}

absl::Status Coordinator::DrainWorker(const v1::DrainWorkerRequest& request) {
  if (!v1::WorkerStanding_IsValid(request.standing())) {
    return absl::InvalidArgumentError(absl::StrCat("standing: found the unknown value ",
                                                   request.standing(),
                                                   ", expected active, cordoned or drained"));
  }
  WorkerStanding standing = WorkerStanding::kDraining;
  if (request.standing() == v1::WORKER_STANDING_ACTIVE) standing = WorkerStanding::kActive;
  if (request.standing() == v1::WORKER_STANDING_CORDONED) standing = WorkerStanding::kCordoned;
  SA_RETURN_IF_ERROR(store_->SetStanding(request.worker_id(), standing));
  spdlog::info("worker {}: {}", request.worker_id(), v1::WorkerStanding_Name(request.standing()));
  return absl::OkStatus();
}

absl::Status Coordinator::Watch(const std::string& job_id, uint64_t from_sequence,
                                const std::function<bool(const v1::JobEvent&)>& send,
                                const std::function<bool()>& stopped) {
  uint64_t next = std::max<uint64_t>(1, from_sequence);
  WatchHub::Ticket ticket(&watch_hub_, job_id);
  while (!stopped()) {
    SA_ASSIGN_OR_RETURN(const auto events, store_->Events(job_id, next, kEventsAtATime));
    for (const v1::JobEvent& event : events) {
      if (!send(event)) return absl::OkStatus();
      next = event.sequence() + 1;
    }
    if (static_cast<int>(events.size()) == kEventsAtATime) continue;
    const bool ended = !events.empty() && events.back().event_case() == v1::JobEvent::kState &&
                       IsTerminal(events.back().state());
    if (events.empty() || ended) {
      SA_ASSIGN_OR_RETURN(const JobRecord record, store_->GetJob(job_id));
      // A job that failed and was retried goes on behind its first end.
      if (next <= record.job.last_sequence()) continue;
      if (IsTerminal(record.job.state())) return absl::OkStatus();
    }
    const absl::Time poll = absl::Now() + kWatchPoll;
    while (!stopped() && absl::Now() < poll && !ticket.Await(next - 1, kWatchWait)) {
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Job> Coordinator::WithProgress(JobRecord record) {
  SA_ASSIGN_OR_RETURN(const auto tasks, store_->ListTasks(record.job.job_id(), false));
  *record.job.mutable_progress() = Progress(record.job, tasks);
  return std::move(record.job);
}

v1::Progress Coordinator::Progress(const v1::Job& job, const std::vector<TaskRecord>& tasks) {
  v1::Progress progress = ComputeProgress(job, tasks, clock_->Now());
  if (progress.layers_done() > 0) progress.set_output_error(RunningError(job));
  return progress;
}

double Coordinator::RunningError(const v1::Job& job) {
  {
    std::lock_guard<std::mutex> hold(error_mutex_);
    const auto known = running_error_.find(job.job_id());
    if (known != running_error_.end()) {
      return known->second.first / static_cast<double>(known->second.second);
    }
  }
  const auto view = JobView::Read(store_, job.job_id());
  if (!view.ok()) return 0;
  const double width = TypicalWidth(job.spec());
  double sum = 0;
  uint64_t count = 0;
  for (const auto& [name, report] : view->Reports()) {
    const v1::CandidateReport* nearest = nullptr;
    for (const v1::CandidateReport& c : report.candidates()) {
      if (c.bits() == 0) continue;
      if (nearest == nullptr || std::abs(c.bits() - width) < std::abs(nearest->bits() - width)) {
        nearest = &c;
      }
    }
    if (nearest == nullptr) continue;
    sum += nearest->output_error();
    ++count;
  }
  if (count == 0) return 0;
  std::lock_guard<std::mutex> hold(error_mutex_);
  if (running_error_.size() > 1000) running_error_.clear();  // only a cache
  running_error_[job.job_id()] = {sum, count};
  return sum / static_cast<double>(count);
}

}  // namespace shiftadd::coordinator
