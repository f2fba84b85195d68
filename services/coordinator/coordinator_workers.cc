// What workers ask.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/call_notes.h"
#include "services/base/digest.h"
#include "services/base/fail_point.h"
#include "services/base/logging.h"
#include "services/base/printable.h"
#include "services/base/status_macros.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/criterion.h"
#include "services/coordinator/repair.h"
#include "services/coordinator/result_check.h"
#include "services/rpc/proto_duration.h"

namespace shiftadd::coordinator {
namespace {

constexpr absl::Duration kMaxWait = absl::Seconds(30);
constexpr int kMaxLostDigests = 64;
constexpr size_t kMaxMessage = 4096;  // of a failed task
constexpr int kRepairUpdates = 16;    // against a driver that is faster each time
// Between two looks at the caller's connection while it waits for a task.
constexpr absl::Duration kLeaseWait = absl::Milliseconds(500);
// Between two tries for a task that are not due to news: a task that its worker has lost is its own
// again once the others are gone.
constexpr absl::Duration kLeaseRetry = absl::Seconds(5);

// What users and logs are shown as it stands.
absl::Status CheckName(absl::string_view field, const std::string& name, size_t least,
                       size_t most) {
  if (name.size() >= least && name.size() <= most && !HasControls(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": expected ", least, " to ", most, " bytes without control characters"));
}

absl::StatusOr<LeaseQuery> ToQuery(const v1::LeaseTaskRequest& request) {
  SA_RETURN_IF_ERROR(CheckName("worker_id", request.worker_id(), 1, 200));
  SA_RETURN_IF_ERROR(CheckName("device_class", request.device_class(), 1, 200));
  SA_RETURN_IF_ERROR(CheckName("quantizer_version", request.quantizer_version(), 0, 200));
  SA_RETURN_IF_ERROR(CheckName("request_id", request.request_id(), 0, 64));
  LeaseQuery query;
  query.worker = request.worker_id();
  query.device_class = request.device_class();
  query.memory_bytes = request.memory_bytes();
  query.version = request.quantizer_version();
  query.held_job = request.held_job_id();
  query.held_ordinal = request.held_block();
  query.request_id = request.request_id();
  return query;
}

absl::StatusOr<v1::Task> ToTask(const TaskRecord& record, absl::Duration lease) {
  v1::Task task;
  if (!task.ParseFromString(record.payload)) {
    return absl::DataLossError(absl::StrCat("task ", record.task_id, ": its row is damaged"));
  }
  task.set_task_id(record.task_id);
  task.set_lease_epoch(record.lease_epoch);
  *task.mutable_lease() = rpc::ToProto(lease);
  int lost = 0;
  for (const auto& [cause, count] : record.attempts) lost += count;
  task.set_attempt(static_cast<uint32_t>(lost) + 1);
  return task;
}

template <typename Request>
LeaseKey KeyOf(const Request& request) {
  return {request.task_id(), request.worker_id(), request.lease_epoch()};
}

// Of log lines about a lease.
template <typename Request>
LogFields FieldsOf(const Request& request) {
  return {{"task", request.task_id()},
          {"epoch", absl::StrCat(request.lease_epoch())},
          {"worker", request.worker_id()}};
}

FailureKind KindOfFailure(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnavailable:  // the blob store is away, which is nobody's fault
      return FailureKind::kReleased;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kDataLoss:
      return FailureKind::kFatal;
    default:
      return FailureKind::kRetry;
  }
}

// With the criterion's value where one layer's figures give it.
v1::LayerReport Priced(const v1::LayerReport& layer, v1::Criterion criterion) {
  if (criterion == v1::CRITERION_PAPER || criterion == v1::CRITERION_MEASURED) return layer;
  ReportMap alone = {{layer.layer().name(), layer}};
  // Without gradients the worker's figure stays until the other layers are there.
  FillImportance(criterion, &alone).IgnoreError();
  return alone.begin()->second;
}

}  // namespace

absl::StatusOr<v1::LeaseTaskResponse> Coordinator::Lease(const v1::LeaseTaskRequest& request,
                                                         const std::function<bool()>& stopped) {
  SA_ASSIGN_OR_RETURN(const LeaseQuery query, ToQuery(request));
  v1::LeaseTaskResponse response;
  bool known = false;  // the store has heard of the worker
  // Another version's candidates would not be the same bytes.
  const bool other_version = !query.version.empty() && query.version != options_.quantizer_version;
  if (other_version) {
    response.set_idle_reason(absl::StrCat("idle: quantizer version ", query.version,
                                          ", this cluster runs ", options_.quantizer_version));
  }
  const absl::Time end =
      absl::Now() + std::clamp(rpc::FromProto(request.max_wait()), absl::ZeroDuration(), kMaxWait);
  uint64_t seen = 0;
  absl::Time retry = absl::InfinitePast();
  while (true) {
    const uint64_t now = store_->AwaitWork(seen, absl::ZeroDuration());
    // Where one worker has just found nothing at all, the others that wait need not look. A new
    // request looks at any rate: its own task may be there already.
    const bool due =
        (now != seen || absl::Now() >= retry) && (seen == 0 || nothing_ready_.load() != now);
    if (due && !other_version) {
      SA_ASSIGN_OR_RETURN(LeaseOutcome outcome, store_->LeaseTask(query));
      retry = absl::Now() + std::min(kLeaseRetry, options_.lease / 2);
      if (outcome.none_ready) nothing_ready_ = now;
      if (outcome.task.has_value()) {
        // Nobody is there to take it; what an earlier request has got may have arrived, though.
        if (stopped() && !outcome.repeated) {
          const LeaseKey key{outcome.task->task_id, query.worker, outcome.task->lease_epoch};
          SA_RETURN_IF_ERROR(store_
                                 ->FailTask(key, FailureKind::kReleased, "CANCELLED",
                                            static_cast<int>(absl::StatusCode::kCancelled),
                                            "the worker went away")
                                 .status());
          return response;
        }
        response.clear_idle_reason();
        NoteInCall({{"job", outcome.task->job_id},
                    {"task", outcome.task->task_id},
                    {"epoch", absl::StrCat(outcome.task->lease_epoch)},
                    {"worker", query.worker}});
        SA_ASSIGN_OR_RETURN(*response.mutable_task(), ToTask(*outcome.task, options_.lease));
        return response;
      }
      response.set_idle_reason(outcome.idle_reason);
    }
    // A lease says that the worker is there; who gets none has to say so itself.
    if (!known) SA_RETURN_IF_ERROR(store_->TouchWorker(query));
    known = true;
    seen = now;
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration() || stopped()) return response;
    store_->AwaitWork(seen, std::min(left, kLeaseWait));
  }
}

absl::StatusOr<v1::RenewLeaseResponse> Coordinator::Renew(const v1::RenewLeaseRequest& request) {
  NoteInCall(FieldsOf(request));
  SA_ASSIGN_OR_RETURN(const Renewal renewal,
                      store_->RenewLease(KeyOf(request), request.progress()));
  NoteInCall({{"job", renewal.job_id}});
  v1::RenewLeaseResponse response;
  *response.mutable_lease() = rpc::ToProto(options_.lease);
  response.set_cancel(renewal.cancel);
  return response;
}

absl::Status Coordinator::Complete(const v1::CompleteTaskRequest& request) {
  NoteInCall(FieldsOf(request));
  const auto record = store_->GetTask(request.task_id());
  if (absl::IsNotFound(record.status())) return absl::AbortedError(record.status().message());
  SA_RETURN_IF_ERROR(record.status());
  NoteInCall({{"job", record->job_id}});
  SA_ASSIGN_OR_RETURN(const v1::Task task, ToTask(*record, options_.lease));
  SA_RETURN_IF_ERROR(CheckResult(task, request.result()));
  if (task.kind() == v1::TASK_KIND_REPAIR) {
    SA_RETURN_IF_ERROR(CheckRepaired(task, request.result()));
  }
  std::vector<v1::JobEvent> events;
  if (task.kind() == v1::TASK_KIND_PROFILE) {
    SA_ASSIGN_OR_RETURN(const JobRecord job, store_->GetJob(record->job_id));
    for (const v1::LayerReport& layer : request.result().profile().layers()) {
      v1::LayerReport* report = events.emplace_back().mutable_layer();
      *report = Priced(layer, job.job.spec().criterion());
      if (report->worker().empty()) report->set_worker(request.worker_id());
    }
  }
  const bool refine = task.kind() == v1::TASK_KIND_REFINE;
  for (const v1::LayerReport& layer : request.result().refine().layers()) {  // JOIN's
    if (!refine) break;
    v1::LayerReport* report = events.emplace_back().mutable_layer();
    *report = layer;
    if (!layer.candidates().empty()) *report->mutable_refined() = layer.candidates(0);
    report->clear_candidates();
    report->set_worker(request.worker_id());
  }
  ReachFailPoint("task.complete.before");
  SA_ASSIGN_OR_RETURN(
      const bool accepted,
      store_->CompleteTask(KeyOf(request), request.result().SerializeAsString(), events));
  ReachFailPoint("task.complete.after");
  if (!accepted) return absl::OkStatus();
  {
    std::lock_guard<std::mutex> hold(error_mutex_);
    if (task.kind() == v1::TASK_KIND_PROFILE) running_error_.erase(record->job_id);
  }
  const double seconds = absl::ToDoubleSeconds(clock_->Now() - record->lease_time);
  if (options_.observer.task_done) options_.observer.task_done(task.kind(), seconds);
  return absl::OkStatus();
}

absl::Status Coordinator::Repair(const v1::FailTaskRequest& request) {
  if (request.lost_digests_size() > kMaxLostDigests) {
    return absl::InvalidArgumentError(absl::StrCat("lost_digests: found ",
                                                   request.lost_digests_size(),
                                                   ", expected at most ", kMaxLostDigests));
  }
  const std::vector<std::string> lost(request.lost_digests().begin(), request.lost_digests().end());
  for (int i = 0; i < kRepairUpdates; ++i) {
    const auto task = store_->GetTask(request.task_id());
    if (absl::IsNotFound(task.status())) return absl::AbortedError(task.status().message());
    SA_RETURN_IF_ERROR(task.status());
    // Nobody who has lost the lease has a say; FailTask will tell it so.
    if (task->worker != request.worker_id() || task->lease_epoch != request.lease_epoch()) {
      return absl::OkStatus();
    }
    SA_ASSIGN_OR_RETURN(const JobView view, JobView::Read(store_, task->job_id));
    std::optional<uint32_t> repair;
    if (task->kind == v1::TASK_KIND_REPAIR) repair = task->ordinal;
    SA_ASSIGN_OR_RETURN(const std::optional<JobUpdate> update, PlanRepair(view, lost, repair));
    if (!update.has_value()) return absl::OkStatus();
    const auto updated = store_->UpdateJob(*update);
    if (absl::IsAborted(updated.status())) continue;  // somebody was faster
    if (updated.ok() && options_.observer.task_retried) {
      options_.observer.task_retried("lost_blob");
    }
    return updated.status();
  }
  return absl::UnavailableError("the job moves too fast to be repaired: try again");
}

absl::Status Coordinator::Fail(const v1::FailTaskRequest& request) {
  NoteInCall(FieldsOf(request));
  // Should it be unknown, the store says so below.
  if (const auto known = store_->GetTask(request.task_id()); known.ok()) {
    NoteInCall({{"job", known->job_id}});
  }
  if (request.code() < 1 || request.code() > 16) {
    return absl::InvalidArgumentError(
        absl::StrCat("code: found ", request.code(), ", expected a canonical code of 1 to 16"));
  }
  for (const std::string& digest : request.lost_digests()) {
    SA_RETURN_IF_ERROR(Annotate(ValidateDigest(digest), "lost_digests"));
  }
  const auto code = static_cast<absl::StatusCode>(request.code());
  FailureKind kind = KindOfFailure(code);
  const std::string cause = absl::StatusCodeToString(code);
  // It may quote a damaged source, and ends in events and in the job's error.
  std::string message = EscapeControls(Shortened(request.message(), kMaxMessage));
  if (!request.lost_digests().empty()) {
    const absl::Status repair = Repair(request);
    // Before anything can be made again the store must have heard of it: asked once more, it is.
    if (absl::IsUnavailable(repair) || absl::IsAborted(repair)) return repair;
    kind = repair.ok() ? FailureKind::kReleased : FailureKind::kFatal;
    if (!repair.ok()) absl::StrAppend(&message, " (", repair.message(), ")");
  }
  SA_ASSIGN_OR_RETURN(const bool failed,
                      store_->FailTask(KeyOf(request), kind, cause, request.code(), message));
  if (kind == FailureKind::kReleased) return absl::OkStatus();
  spdlog::warn("{}: {} by worker {}: {}: {}", request.task_id(),
               failed ? "failed for good" : "failed, will be retried", request.worker_id(), cause,
               message);
  if (failed) return absl::OkStatus();  // the job's error will say so
  if (options_.observer.task_retried) options_.observer.task_retried(cause);
  // A disk that is full or a lack of memory is for the user to see before the last attempt.
  if (const auto record = store_->GetTask(request.task_id()); record.ok()) {
    v1::JobEvent event;
    event.set_log(absl::StrCat(v1::TaskKind_Name(record->kind).substr(sizeof("TASK_KIND_") - 1),
                               " task ", record->ordinal, ", worker ", request.worker_id(),
                               ", will be retried: ", cause, ": ", message));
    store_->AppendEvents(record->job_id, {event}).IgnoreError();
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::coordinator
