#include "worker/tasks/lease_loop.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "services/base/fail_point.h"
#include "services/base/ids.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/base/trace.h"
#include "services/base/version.h"
#include "services/rpc/proto_duration.h"
#include "services/rpc/rpc.h"
#include "services/rpc/security.h"
#include "worker/model/utf8.h"

namespace shiftadd {
namespace {

constexpr int kLongPollSeconds = 20;
constexpr absl::Duration kPollMargin = absl::Seconds(10);
constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr absl::Duration kRpcTimeout = absl::Seconds(10);
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(200);
constexpr absl::Duration kLongestBackoff = absl::Seconds(5);
constexpr absl::Duration kStoreBackoff = absl::Seconds(5);
constexpr absl::Duration kReportFor = absl::Minutes(10);
// Tasks that are being stored beside the one at work: a long one (ENDS) and a short one.
constexpr size_t kClosing = 2;

// RESOURCE_EXHAUSTED: the coordinator's disk is full; it may have space again before the lease
// ends.
bool WorthRepeating(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kResourceExhausted:
      return true;
    default:
      return false;
  }
}

}  // namespace

struct LeaseLoop::Leased {
  explicit Leased(const v1::Task& task)
      : task(task),
        kind(v1::TaskKind_Name(task.kind()).substr(sizeof("TASK_KIND_") - 1)),
        trace(CallTraceOf(task.context().trace_id())) {}
  LogFields Fields(const std::string& worker) const {
    return {{"job", task.context().job_id()},
            {"task", task.task_id()},
            {"epoch", absl::StrCat(task.lease_epoch())},
            {"worker", worker}};
  }

  const v1::Task task;
  const std::string kind;
  // Its renewals and its report, and what it asks of others, belong to the job's trace.
  const CallTrace trace;
  TaskControl control;
  std::unique_ptr<StoringTask> work;
  bool lost = false;  // the lease; known once the heartbeat has ended
  absl::Notification ended, closed;
  std::thread heartbeat, closer;
};

LeaseLoop::~LeaseLoop() = default;

LeaseLoop::LeaseLoop(WorkerIdentity identity, const rpc::Failover<v1::TaskService>* coordinators,
                     Runner* runner, WorkerMetrics* metrics)
    : identity_(std::move(identity)),
      coordinators_(coordinators),
      runner_(runner),
      metrics_(metrics) {}

void LeaseLoop::SetReason(const std::string& reason) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (reason != reason_) {
    if (reason.empty()) {
      spdlog::info("connected to the coordinator");
    } else {
      spdlog::warn("{}", reason);
    }
  }
  reason_ = reason;
}

std::string LeaseLoop::NotReadyReason() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return reason_;
}

void LeaseLoop::Stop() {
  stop_ = true;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (polling_ != nullptr) polling_->TryCancel();
}

bool LeaseLoop::SleepUnlessStopped(absl::Duration duration) {
  const absl::Time end = absl::Now() + duration;
  while (!stop_ && absl::Now() < end) absl::SleepFor(std::min(kTick, end - absl::Now()));
  return !stop_;
}

absl::Status LeaseLoop::Run() {
  const absl::Cleanup rest = [this] { AwaitClosed(0); };
  absl::Duration backoff = kFirstBackoff;
  std::string request_id = NewId("lease");
  while (!stop_) {
    v1::LeaseTaskRequest request;
    request.set_request_id(request_id);
    request.set_worker_id(identity_.worker_id);
    request.set_device_class(identity_.device_class);
    request.set_memory_bytes(identity_.memory_bytes);
    request.set_quantizer_version(QuantizerVersion());
    // Without connection the first answer is wanted at once: it is what makes the worker ready.
    *request.mutable_max_wait() =
        rpc::ToProto(absl::Seconds(NotReadyReason().empty() ? kLongPollSeconds : 0));
    if (const auto held = runner_->held(); held.has_value()) {
      request.set_held_job_id(held->job_id);
      request.set_held_block(held->block);
    }
    v1::LeaseTaskResponse response;
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(kLongPollSeconds) + kPollMargin);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      polling_ = &context;
    }
    const auto coordinator = coordinators_->target();
    const absl::Status status =
        stop_ ? absl::CancelledError("")
              : rpc::FromGrpc(coordinator.stub->LeaseTask(&context, request, &response));
    const bool another = coordinators_->Note(coordinator, status);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      polling_ = nullptr;
    }
    if (stop_)
      return absl::OkStatus();  // A task that came with a cancelled poll comes back when its lease
                                // ends.
    if (!status.ok()) {
      SetReason(absl::StrCat("coordinator ", coordinator.address, ": ",
                             rpc::ExplainTls(coordinator.address, status).ToString()));
      if (another) continue;
      SleepUnlessStopped(backoff);
      backoff = std::min(backoff * 2, kLongestBackoff);
      continue;
    }
    backoff = kFirstBackoff;
    request_id = NewId("lease");
    SetReason("");
    if (!response.has_task()) continue;
    RunTask(response.task());
    SA_RETURN_IF_ERROR(runner_->device_fault());
    // The next one would most likely find the store away too.
    if (store_away_.exchange(false)) SleepUnlessStopped(kStoreBackoff);
  }
  return absl::OkStatus();
}

void LeaseLoop::RunTask(const v1::Task& task) {
  auto leased = std::make_unique<Leased>(task);
  Leased* const it = leased.get();
  const LogScope fields(it->Fields(identity_.worker_id));
  const TraceScope scope(it->trace);
  spdlog::info("task {} {} of {} (attempt {})", task.task_id(), it->kind, task.context().job_id(),
               task.attempt());
  ReachFailPoint("task.lease.after");
  metrics_->busy->Set(1);
  it->heartbeat = std::thread([this, it] { Heartbeat(it); });
  it->work = runner_->Begin(task, &it->control);
  AwaitClosed(kClosing - 1);
  metrics_->busy->Set(0);
  closing_.push_back(std::move(leased));
  it->closer = std::thread([this, it] { Close(it); });
  // Reported before there is another. One that was lost before is stored alone as well: if it is
  // what ends workers, nothing else must look as if it were.
  if (!it->work->status().ok() || task.attempt() > 1) AwaitClosed(0);
}

void LeaseLoop::Close(Leased* leased) {
  const LogScope fields(leased->Fields(identity_.worker_id));
  const TraceScope scope(leased->trace);
  const absl::StatusOr<v1::TaskResult> result = leased->work->Finish();
  leased->ended.Notify();
  leased->heartbeat.join();
  const std::string outcome = leased->lost                ? "lost"
                              : result.ok()               ? "done"
                              : leased->control.cancelled ? "cancelled"
                                                          : "failed";
  metrics_->tasks->Add({{"kind", leased->kind}, {"outcome", outcome}}).Increment();
  const std::string& id = leased->task.task_id();
  if (leased->lost) {
    spdlog::warn("task {} {}: the lease is lost; its result is dropped", id, leased->kind);
  } else {
    if (result.ok()) {
      spdlog::info("task {} {} done in {:.2f} s", id, leased->kind, result->seconds());
    } else {
      spdlog::warn("task {} {}: {}", id, leased->kind, result.status().ToString());
    }
    Report(*leased, result);
    if (absl::IsUnavailable(result.status())) store_away_ = true;
  }
  leased->closed.Notify();
}

void LeaseLoop::AwaitClosed(size_t most) {
  const auto end = [this](std::list<std::unique_ptr<Leased>>::iterator it) {
    (*it)->closer.join();
    return closing_.erase(it);
  };
  // Those that are done first: a long one does not keep back what comes after short ones.
  for (auto it = closing_.begin(); it != closing_.end();)
    it = (*it)->closed.HasBeenNotified() ? end(it) : std::next(it);
  while (closing_.size() > most) end(closing_.begin());
}

void LeaseLoop::Heartbeat(Leased* leased) {
  const TraceScope same(leased->trace);
  const v1::Task& task = leased->task;
  TaskControl* const control = &leased->control;
  absl::Duration lease = rpc::FromProto(task.lease());
  const absl::Duration stall_limit = rpc::FromProto(task.stall_limit());
  absl::Time renewed = absl::Now(), asked = renewed, moved = renewed;
  uint64_t count = 0;
  while (!leased->ended.WaitForNotificationWithTimeout(kTick)) {
    const absl::Time now = absl::Now();
    if (stop_) control->cancelled = true;
    if (const uint64_t seen = control->progress_count; seen != count) {
      count = seen;
      moved = now;
    }
    // A worker that could not renew stops well before another one may be given the task.
    if (now - renewed > lease * 2 / 3) {
      control->cancelled = true;
      leased->lost = true;
      return;
    }
    const bool stalled = now - moved > stall_limit;
    if (stalled || now - asked < lease / 3) continue;
    asked = now;
    v1::RenewLeaseRequest request;
    request.set_worker_id(identity_.worker_id);
    request.set_task_id(task.task_id());
    request.set_lease_epoch(task.lease_epoch());
    request.set_progress(control->progress);
    v1::RenewLeaseResponse response;
    grpc::ClientContext context;
    // Where one of several coordinators hangs there must be time to ask the next.
    rpc::SetDeadline(&context, coordinators_->size() > 1 ? lease / 6 : lease / 3);
    const auto coordinator = coordinators_->target();
    const absl::Status status =
        rpc::FromGrpc(coordinator.stub->RenewLease(&context, request, &response));
    if (coordinators_->Note(coordinator, status)) asked = absl::InfinitePast();
    if (status.ok()) {
      renewed = now;
      lease = rpc::FromProto(response.lease());
      if (response.cancel()) control->cancelled = true;
    } else if (!WorthRepeating(status)) {
      spdlog::warn("renewing {}: {}", task.task_id(), status.ToString());
      control->cancelled = true;
      leased->lost = true;
      return;
    }
  }
}

absl::Status LeaseLoop::SendReport(const Leased& leased,
                                   const absl::StatusOr<v1::TaskResult>& result) {
  using Stub = v1::TaskService::Stub;
  const v1::Task& task = leased.task;
  if (result.ok()) {
    v1::CompleteTaskRequest request;
    request.set_worker_id(identity_.worker_id);
    request.set_task_id(task.task_id());
    request.set_lease_epoch(task.lease_epoch());
    *request.mutable_result() = *result;
    v1::CompleteTaskResponse response;
    return coordinators_->Call(&Stub::CompleteTask, request, &response, kRpcTimeout);
  }
  v1::FailTaskRequest request;
  request.set_worker_id(identity_.worker_id);
  request.set_task_id(task.task_id());
  request.set_lease_epoch(task.lease_epoch());
  request.set_code(static_cast<int32_t>(result.status().code()));
  // A message may quote a damaged source, and protobuf refuses strings that are not UTF-8.
  request.set_message(ReplaceInvalidUtf8(result.status().message()));
  if (absl::IsNotFound(result.status()) || absl::IsDataLoss(result.status())) {
    for (const std::string& digest : leased.work->lost_blobs()) request.add_lost_digests(digest);
  }
  v1::FailTaskResponse response;
  return coordinators_->Call(&Stub::FailTask, request, &response, kRpcTimeout);
}

void LeaseLoop::Report(const Leased& leased, const absl::StatusOr<v1::TaskResult>& result) {
  const absl::Time give_up = absl::Now() + (stop_ ? kRpcTimeout : kReportFor);
  absl::Duration backoff = kFirstBackoff;
  while (true) {
    ReachFailPoint("task.report.before");
    const absl::Status status = SendReport(leased, result);
    ReachFailPoint("task.report.after");
    if (status.ok()) return;
    if (!WorthRepeating(status) || absl::Now() > give_up) {
      spdlog::warn("reporting {}: {}", leased.task.task_id(), status.ToString());
      // What was made does not answer the task: another run would make the same again.
      if (result.ok() && absl::IsInvalidArgument(status)) {
        Report(leased,
               absl::Status(status.code(), absl::StrCat("the coordinator refused the result: ",
                                                        status.message())));
      }
      return;
    }
    SetReason(absl::StrCat("coordinator: ", status.ToString()));
    if (!SleepUnlessStopped(backoff)) return;
    backoff = std::min(backoff * 2, kLongestBackoff);
  }
}

}  // namespace shiftadd
