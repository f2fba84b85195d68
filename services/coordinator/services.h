// gRPC handlers of the coordinator: translate, call, translate back.
#ifndef SHIFTADD_SERVICES_COORDINATOR_SERVICES_H_
#define SHIFTADD_SERVICES_COORDINATOR_SERVICES_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "services/access/access.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/coordinator_metrics.h"
#include "shiftadd/v1/job.grpc.pb.h"
#include "shiftadd/v1/task.grpc.pb.h"

namespace shiftadd::coordinator {

// Set when the daemon ends: streams and long polls answer at once.
using StopFlag = std::atomic<bool>;

class JobServiceHandler final : public v1::JobService::Service {
 public:
  // `access`: who calls and whose jobs are whose; null: everybody may do everything.
  JobServiceHandler(Coordinator* core, CoordinatorMetrics* metrics, const StopFlag* stop,
                    access::Access* access = nullptr)
      : core_(core), metrics_(metrics), stop_(stop), access_(access) {}

  grpc::Status SubmitJob(grpc::ServerContext*, const v1::SubmitJobRequest*, v1::Job*) override;
  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest*, v1::Job*) override;
  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest*,
                        v1::ListJobsResponse*) override;
  grpc::Status WatchJob(grpc::ServerContext*, const v1::WatchJobRequest*,
                        grpc::ServerWriter<v1::JobEvent>*) override;
  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest*, v1::Job*) override;
  grpc::Status RetryJob(grpc::ServerContext*, const v1::RetryJobRequest*, v1::Job*) override;
  grpc::Status DeleteJob(grpc::ServerContext*, const v1::DeleteJobRequest*,
                         google::protobuf::Empty*) override;
  grpc::Status GetJobReport(grpc::ServerContext*, const v1::GetJobReportRequest*,
                            v1::JobReport*) override;
  grpc::Status PlanBudget(grpc::ServerContext*, const v1::PlanBudgetRequest*,
                          v1::PlanBudgetResponse*) override;
  grpc::Status PublishBudget(grpc::ServerContext*, const v1::PublishBudgetRequest*,
                             v1::Job*) override;
  grpc::Status EvaluatePackage(grpc::ServerContext*, const v1::EvaluatePackageRequest*,
                               v1::Job*) override;
  grpc::Status DrainWorker(grpc::ServerContext* context, const v1::DrainWorkerRequest* request,
                           v1::DrainWorkerResponse* response) override;
  grpc::Status GetClusterStatus(grpc::ServerContext*, const v1::GetClusterStatusRequest*,
                                v1::ClusterStatus*) override;
  grpc::Status ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse*) override;

 private:
  // Whose the jobs are that this call makes.
  std::string OwnerOf(const grpc::ServerContext& context) const;
  // `change` of a job, if the caller is its owner or an admin; and who did it goes into the log.
  absl::Status ChangeJob(const grpc::ServerContext& context, const char* action,
                         const std::string& job_id, const std::function<absl::Status()>& change);

  Coordinator* const core_;
  CoordinatorMetrics* const metrics_;
  const StopFlag* const stop_;
  access::Access* const access_;
};

class TaskServiceHandler final : public v1::TaskService::Service {
 public:
  TaskServiceHandler(Coordinator* core, CoordinatorMetrics* metrics, const StopFlag* stop)
      : core_(core), metrics_(metrics), stop_(stop) {}

  grpc::Status LeaseTask(grpc::ServerContext*, const v1::LeaseTaskRequest*,
                         v1::LeaseTaskResponse*) override;
  grpc::Status RenewLease(grpc::ServerContext*, const v1::RenewLeaseRequest*,
                          v1::RenewLeaseResponse*) override;
  grpc::Status CompleteTask(grpc::ServerContext*, const v1::CompleteTaskRequest*,
                            v1::CompleteTaskResponse*) override;
  grpc::Status FailTask(grpc::ServerContext*, const v1::FailTaskRequest*,
                        v1::FailTaskResponse*) override;

 private:
  Coordinator* const core_;
  CoordinatorMetrics* const metrics_;
  const StopFlag* const stop_;
};

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_SERVICES_H_
