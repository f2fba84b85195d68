#include "tests/chaos/watcher.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "tests/cluster.h"

namespace shiftadd::testing {
namespace {

using Stub = v1::JobService::Stub;

constexpr absl::Duration kTimeout = absl::Seconds(5);
constexpr absl::Duration kPause = absl::Milliseconds(50);
// A stream that is silent for long may hang behind a connection that passes nothing on: it is
// opened anew.
constexpr absl::Duration kStream = absl::Seconds(8);

std::string Name(v1::JobState state) {
  return v1::JobState_Name(state).substr(sizeof("JOB_STATE_") - 1);
}

bool IsEnd(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsCancelled(status) || absl::IsUnknown(status);
}

}  // namespace

Watcher::Watcher(const std::string& addresses, const v1::JobSpec& spec)
    : spec_(spec), coordinators_(addresses), thread_([this] { Run(); }) {}

Watcher::Watcher(const std::string& addresses, const std::string& job_id)
    : coordinators_(addresses), job_id_(job_id), thread_([this] { Run(); }) {}

Watcher::~Watcher() {
  Stop();
  thread_.join();
}

void Watcher::Stop() {
  stop_ = true;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stream_ != nullptr) stream_->TryCancel();
}

std::string Watcher::state() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return state_;
}
std::string Watcher::job_id() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return job_id_;
}
std::vector<v1::JobEvent> Watcher::events() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return events_;
}
std::vector<std::string> Watcher::faults() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return faults_;
}

void Watcher::AddFault(const std::string& fault) {
  const std::lock_guard<std::mutex> lock(mutex_);
  faults_.push_back(fault);
}

void Watcher::Run() {
  if (job_id().empty() && !Submit()) return;
  while (!stop_ && !ended_) {
    WatchOnce();
    if (!ended_) absl::SleepFor(kPause);
  }
}

bool Watcher::Submit() {
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec_;
  request.set_request_id(NewId("chaos"));  // one job, however often it is asked for
  while (!stop_) {
    v1::Job job;
    const absl::Status status = coordinators_.Call(&Stub::SubmitJob, request, &job, kTimeout);
    if (status.ok()) {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_id_ = job.job_id();
      return true;
    }
    if (!MayPass(status)) {
      AddFault(absl::StrCat("SubmitJob: ", status.ToString()));
      return false;
    }
    absl::SleepFor(kPause);
  }
  return false;
}

void Watcher::WatchOnce() {
  v1::WatchJobRequest request;
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kStream);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    request.set_job_id(job_id_);
    request.set_from_sequence(events_.size() + 1);
    stream_ = &context;
  }
  const auto to = coordinators_.target();
  auto reader = to.stub->WatchJob(&context, request);
  for (v1::JobEvent event; reader->Read(&event);) Take(event);
  const absl::Status status = rpc::FromGrpc(reader->Finish());
  coordinators_.Note(to, status);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stream_ = nullptr;
  }
  if (!status.ok() && !MayPass(status)) AddFault(absl::StrCat("WatchJob: ", status.ToString()));
}

void Watcher::Take(const v1::JobEvent& event) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (event.sequence() != events_.size() + 1) {
    faults_.push_back(
        absl::StrCat("event ", event.sequence(), " came where ", events_.size() + 1, " was due"));
  }
  events_.push_back(event);
  if (event.event_case() != v1::JobEvent::kState) return;
  state_ = Name(event.state());
  if (IsEnd(event.state())) ended_ = true;
}

absl::StatusOr<v1::Job> Watcher::Get() const {
  v1::GetJobRequest request;
  request.set_job_id(job_id());
  v1::Job job;
  SA_RETURN_IF_ERROR(coordinators_.Call(&Stub::GetJob, request, &job, kTimeout));
  return job;
}

absl::StatusOr<std::vector<v1::JobEvent>> Watcher::ReadEvents() const {
  v1::WatchJobRequest request;
  request.set_job_id(job_id());
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kStream);
  const auto to = coordinators_.target();
  auto reader = to.stub->WatchJob(&context, request);
  std::vector<v1::JobEvent> events;
  for (v1::JobEvent event; reader->Read(&event);) events.push_back(event);
  SA_RETURN_IF_ERROR(rpc::FromGrpc(reader->Finish()));
  return events;
}

absl::Status Watcher::DeleteJob() const {
  v1::DeleteJobRequest request;
  request.set_job_id(job_id());
  google::protobuf::Empty response;
  return coordinators_.Call(&Stub::DeleteJob, request, &response, kTimeout);
}

}  // namespace shiftadd::testing
