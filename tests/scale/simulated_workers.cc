#include "tests/scale/simulated_workers.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/ids.h"
#include "services/rpc/proto_duration.h"
#include "services/rpc/rpc.h"

namespace shiftadd::testing {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(30);
constexpr int kPollSeconds = 2;

// Not rpc::MakeChannel: equal channels of one process share a connection, and workers do not.
std::shared_ptr<grpc::Channel> OwnChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// Runs one call and adds its time.
template <typename Call>
grpc::Status Timed(Latencies* latencies, const Call& call) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kTimeout);
  const absl::Time start = absl::Now();
  const grpc::Status status = call(&context);
  if (latencies != nullptr) latencies->Add(absl::Now() - start);
  return status;
}

}  // namespace

SimulatedWorkers::SimulatedWorkers(int count, const std::string& coordinator, absl::Duration task,
                                   Answer answer, WorkerFigures* figures)
    : coordinator_(coordinator), task_(task), answer_(std::move(answer)), figures_(figures) {
  for (int i = 0; i < count; ++i) threads_.emplace_back([this, i] { Work(i); });
}

SimulatedWorkers::~SimulatedWorkers() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
}

void SimulatedWorkers::Fault(const char* call, const grpc::Status& status) {
  const std::lock_guard<std::mutex> lock(figures_->mutex);
  if (figures_->fault.empty()) {
    figures_->fault = absl::StrCat(call, ": ", rpc::FromGrpc(status).ToString());
  }
}

void SimulatedWorkers::Sleep(absl::Duration time) const {
  const absl::Time end = absl::Now() + time;
  while (!stop_ && absl::Now() < end) {
    absl::SleepFor(std::min(absl::Milliseconds(100), end - absl::Now()));
  }
}

void SimulatedWorkers::Work(int index) {
  const auto stub = v1::TaskService::NewStub(OwnChannel(coordinator_));
  absl::Time idle_since = absl::Now();
  while (!stop_) {
    v1::LeaseTaskRequest request;
    request.set_worker_id(absl::StrCat("simulated-", index));
    request.set_device_class("cpu-avx2");
    request.set_request_id(NewId("lease"));
    *request.mutable_max_wait() = rpc::ToProto(absl::Seconds(kPollSeconds));
    v1::LeaseTaskResponse response;
    const absl::Time start = absl::Now();
    const grpc::Status status =
        Timed(nullptr, [&](auto* context) { return stub->LeaseTask(context, request, &response); });
    if (!status.ok()) {
      Fault("LeaseTask", status);
      Sleep(absl::Milliseconds(200));
      continue;
    }
    if (!response.has_task()) {
      ++figures_->empty_leases;
      figures_->empty_us += absl::ToInt64Microseconds(absl::Now() - start);
      continue;
    }
    // What it waited for work is no latency: only calls that had a task to give at once count.
    figures_->lease.Add(absl::Now() - start);
    figures_->idle_us += absl::ToInt64Microseconds(absl::Now() - idle_since);
    const absl::Time began = absl::Now();
    Sleep(task_ / 2);
    v1::RenewLeaseRequest renew;
    renew.set_worker_id(request.worker_id());
    renew.set_task_id(response.task().task_id());
    renew.set_lease_epoch(response.task().lease_epoch());
    renew.set_progress(0.5);
    v1::RenewLeaseResponse renewed;
    const grpc::Status kept = Timed(&figures_->renew, [&](auto* context) {
      return stub->RenewLease(context, renew, &renewed);
    });
    if (!kept.ok()) Fault("RenewLease", kept);
    Sleep(began + task_ - absl::Now());
    figures_->leased_us += absl::ToInt64Microseconds(absl::Now() - began);
    idle_since = absl::Now();
    if (Do(index, stub.get(), response.task())) ++figures_->tasks;
  }
}

bool SimulatedWorkers::Do(int index, v1::TaskService::Stub* stub, const v1::Task& task) {
  v1::CompleteTaskRequest request;
  request.set_worker_id(absl::StrCat("simulated-", index));
  request.set_task_id(task.task_id());
  request.set_lease_epoch(task.lease_epoch());
  *request.mutable_result() = answer_(task);
  v1::CompleteTaskResponse response;
  const grpc::Status status = Timed(&figures_->complete, [&](auto* context) {
    return stub->CompleteTask(context, request, &response);
  });
  if (!status.ok()) Fault("CompleteTask", status);
  return status.ok();
}

}  // namespace shiftadd::testing
