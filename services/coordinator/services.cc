#include "services/coordinator/services.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/access/audit.h"
#include "services/rpc/rpc.h"
#include "services/rpc/security.h"
#include "services/rpc/stall_guard.h"

namespace shiftadd::coordinator {
namespace {

// Runs `work`, maps its status and counts it.
template <typename Work>
grpc::Status Call(const char* method, CoordinatorMetrics* metrics, Work work) {
  const absl::Time start = absl::Now();
  const absl::Status status = work();
  metrics->RpcDone(method, static_cast<int>(status.code()),
                   absl::ToDoubleSeconds(absl::Now() - start));
  return rpc::ToGrpc(status);
}

// Moves a value into `out`, or returns its status.
template <typename T>
absl::Status Into(absl::StatusOr<T> from, T* out) {
  if (!from.ok()) return from.status();
  *out = *std::move(from);
  return absl::OkStatus();
}

// The same for requests whose fields are checked: each faulty one is named in the status.
template <typename T, typename Work>
grpc::Status CallWithFaults(const char* method, CoordinatorMetrics* metrics, T* response,
                            Work work) {
  return Call(method, metrics, [&]() -> absl::Status {
    std::vector<FieldFault> faults;
    auto answer = work(&faults);
    if (faults.empty()) return Into(std::move(answer), response);
    std::vector<rpc::FieldViolation> violations;
    violations.reserve(faults.size());
    for (const FieldFault& f : faults) violations.push_back({f.field, f.description});
    return rpc::InvalidFields(violations);
  });
}

}  // namespace

std::string JobServiceHandler::OwnerOf(const grpc::ServerContext& context) const {
  if (access_ != nullptr && access_->required()) {
    const absl::StatusOr<access::Caller> caller = rpc::CallerOf(context, access_);
    // It was let in a moment ago; a token that has been withdrawn meanwhile owns nothing new.
    return caller.ok() ? caller->name : "unknown";
  }
  // Nobody is asked who he is: a name is only a label that jobs are shared out by.
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("x-shiftadd-owner");
  if (found == metadata.end() || found->second.empty() || found->second.size() > 200) {
    return "local";
  }
  return {found->second.data(), found->second.size()};
}

absl::Status JobServiceHandler::ChangeJob(const grpc::ServerContext& context, const char* action,
                                          const std::string& job_id,
                                          const std::function<absl::Status()>& change) {
  const absl::StatusOr<access::Caller> caller = rpc::CallerOf(context, access_);
  if (!caller.ok()) return caller.status();
  absl::Status status;
  if (!caller->roles.Has(access::Role::kAdmin)) {
    const absl::StatusOr<v1::Job> job = core_->Get(job_id);
    if (!job.ok()) return job.status();
    if (job->owner() != caller->name) {
      status = absl::PermissionDeniedError(
          absl::StrCat(job_id, " belongs to ", job->owner(), ": ", caller->name, " is no admin"));
    }
  }
  if (status.ok()) status = change();
  access::Audit(caller->name, action, job_id, status);
  return status;
}

grpc::Status JobServiceHandler::SubmitJob(grpc::ServerContext* context,
                                          const v1::SubmitJobRequest* request, v1::Job* response) {
  return CallWithFaults("SubmitJob", metrics_, response, [&](std::vector<FieldFault>* faults) {
    const std::string owner = OwnerOf(*context);
    absl::StatusOr<v1::Job> job = core_->Submit(*request, owner, faults);
    access::Audit(owner, "SubmitJob", job.ok() ? job->job_id() : "", job.status());
    return job;
  });
}

grpc::Status JobServiceHandler::PlanBudget(grpc::ServerContext*,
                                           const v1::PlanBudgetRequest* request,
                                           v1::PlanBudgetResponse* response) {
  return CallWithFaults("PlanBudget", metrics_, response, [&](std::vector<FieldFault>* faults) {
    return core_->PlanBudget(*request, faults);
  });
}

grpc::Status JobServiceHandler::PublishBudget(grpc::ServerContext* context,
                                              const v1::PublishBudgetRequest* request,
                                              v1::Job* response) {
  return CallWithFaults("PublishBudget", metrics_, response, [&](std::vector<FieldFault>* faults) {
    absl::StatusOr<v1::Job> job = absl::UnknownError("not published");
    const absl::Status status =
        ChangeJob(*context, "PublishBudget", request->job_id(), [&]() -> absl::Status {
          job = core_->PublishBudget(*request, OwnerOf(*context), faults);
          return job.status();
        });
    return status.ok() ? job : absl::StatusOr<v1::Job>(status);
  });
}

grpc::Status JobServiceHandler::EvaluatePackage(grpc::ServerContext* context,
                                                const v1::EvaluatePackageRequest* request,
                                                v1::Job* response) {
  return CallWithFaults(
      "EvaluatePackage", metrics_, response, [&](std::vector<FieldFault>* faults) {
        const std::string owner = OwnerOf(*context);
        absl::StatusOr<v1::Job> job = core_->EvaluatePackage(*request, owner, faults);
        access::Audit(owner, "EvaluatePackage", job.ok() ? job->job_id() : request->package(),
                      job.status());
        return job;
      });
}

grpc::Status JobServiceHandler::GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                                       v1::Job* response) {
  return Call("GetJob", metrics_, [&] { return Into(core_->Get(request->job_id()), response); });
}

grpc::Status JobServiceHandler::ListJobs(grpc::ServerContext*, const v1::ListJobsRequest* request,
                                         v1::ListJobsResponse* response) {
  return Call("ListJobs", metrics_, [&] { return Into(core_->List(*request), response); });
}

grpc::Status JobServiceHandler::WatchJob(grpc::ServerContext* context,
                                         const v1::WatchJobRequest* request,
                                         grpc::ServerWriter<v1::JobEvent>* writer) {
  // Not counted: a stream's time is its job's.
  const absl::Status status = core_->Watch(
      request->job_id(), request->from_sequence(),
      [&](const v1::JobEvent& event) { return rpc::WriteInTime(context, writer, event); },
      [&] { return stop_->load() || context->IsCancelled(); });
  if (status.ok() && stop_->load()) {
    return rpc::ToGrpc(absl::UnavailableError("the coordinator is shutting down: watch again"));
  }
  return rpc::ToGrpc(status);
}

grpc::Status JobServiceHandler::CancelJob(grpc::ServerContext* context,
                                          const v1::CancelJobRequest* request, v1::Job* response) {
  return Call("CancelJob", metrics_, [&] {
    return ChangeJob(*context, "CancelJob", request->job_id(),
                     [&] { return Into(core_->Cancel(request->job_id()), response); });
  });
}

grpc::Status JobServiceHandler::RetryJob(grpc::ServerContext* context,
                                         const v1::RetryJobRequest* request, v1::Job* response) {
  return Call("RetryJob", metrics_, [&] {
    return ChangeJob(*context, "RetryJob", request->job_id(),
                     [&] { return Into(core_->Retry(request->job_id()), response); });
  });
}

grpc::Status JobServiceHandler::DeleteJob(grpc::ServerContext* context,
                                          const v1::DeleteJobRequest* request,
                                          google::protobuf::Empty*) {
  return Call("DeleteJob", metrics_, [&] {
    return ChangeJob(*context, "DeleteJob", request->job_id(),
                     [&] { return core_->Delete(request->job_id()); });
  });
}

grpc::Status JobServiceHandler::GetJobReport(grpc::ServerContext*,
                                             const v1::GetJobReportRequest* request,
                                             v1::JobReport* response) {
  return Call("GetJobReport", metrics_,
              [&] { return Into(core_->Report(request->job_id()), response); });
}

grpc::Status JobServiceHandler::ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                                            v1::ListWorkersResponse* response) {
  return Call("ListWorkers", metrics_, [&]() -> absl::Status {
    auto workers = core_->Workers();
    if (!workers.ok()) return workers.status();
    for (v1::WorkerInfo& w : *workers) *response->add_workers() = std::move(w);
    return absl::OkStatus();
  });
}

grpc::Status JobServiceHandler::GetClusterStatus(grpc::ServerContext*,
                                                 const v1::GetClusterStatusRequest* request,
                                                 v1::ClusterStatus* response) {
  return Call("GetClusterStatus", metrics_, [&] {
    *response = core_->Status(*request);
    return absl::OkStatus();
  });
}

grpc::Status JobServiceHandler::DrainWorker(grpc::ServerContext* context,
                                            const v1::DrainWorkerRequest* request,
                                            v1::DrainWorkerResponse*) {
  return Call("DrainWorker", metrics_, [&] {
    const absl::Status status = core_->DrainWorker(*request);
    access::Audit(OwnerOf(*context), "DrainWorker", request->worker_id(), status);
    return status;
  });
}

grpc::Status TaskServiceHandler::LeaseTask(grpc::ServerContext* context,
                                           const v1::LeaseTaskRequest* request,
                                           v1::LeaseTaskResponse* response) {
  return Call("LeaseTask", metrics_, [&] {
    const auto stopped = [&] { return stop_->load() || context->IsCancelled(); };
    return Into(core_->Lease(*request, stopped), response);
  });
}

grpc::Status TaskServiceHandler::RenewLease(grpc::ServerContext*,
                                            const v1::RenewLeaseRequest* request,
                                            v1::RenewLeaseResponse* response) {
  return Call("RenewLease", metrics_, [&] { return Into(core_->Renew(*request), response); });
}

grpc::Status TaskServiceHandler::CompleteTask(grpc::ServerContext*,
                                              const v1::CompleteTaskRequest* request,
                                              v1::CompleteTaskResponse*) {
  return Call("CompleteTask", metrics_, [&] { return core_->Complete(*request); });
}

grpc::Status TaskServiceHandler::FailTask(grpc::ServerContext*, const v1::FailTaskRequest* request,
                                          v1::FailTaskResponse*) {
  return Call("FailTask", metrics_, [&] { return core_->Fail(*request); });
}

}  // namespace shiftadd::coordinator
