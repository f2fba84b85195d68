#include "services/access/method_rules.h"

#include <map>

namespace shiftadd::access {
namespace {

constexpr Roles kViewer = {Role::kViewer};
constexpr Roles kUser = {Role::kUser};
constexpr Roles kClient = {Role::kClient};
constexpr Roles kWorker = {Role::kWorker};
constexpr Roles kCoordinator = {Role::kCoordinator};
constexpr Roles kServer = {Role::kServer};
constexpr Roles kAdmin = {Role::kAdmin};
// Who finds packages and reads what they are made of.
constexpr Roles kReaders = {Role::kViewer, Role::kServer, Role::kWorker, Role::kCoordinator};
constexpr Roles kBlobReaders = {Role::kUser, Role::kServer, Role::kWorker, Role::kCoordinator};

}  // namespace

const std::vector<MethodRule>& MethodRules() {
  static const auto& rules = *new std::vector<MethodRule>{
      {"/grpc.health.v1.Health/Check", {}, true},
      {"/grpc.health.v1.Health/Watch", {}, true},
      {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", kViewer},

      // A job's owner and admins cancel, retry and publish it: the coordinator looks.
      {"/shiftadd.v1.JobService/SubmitJob", kUser},
      {"/shiftadd.v1.JobService/GetJob", kViewer},
      {"/shiftadd.v1.JobService/ListJobs", kViewer},
      {"/shiftadd.v1.JobService/WatchJob", kViewer},
      {"/shiftadd.v1.JobService/CancelJob", kUser},
      {"/shiftadd.v1.JobService/RetryJob", kUser},
      {"/shiftadd.v1.JobService/DeleteJob", kAdmin},
      {"/shiftadd.v1.JobService/GetJobReport", kViewer},
      {"/shiftadd.v1.JobService/PlanBudget", kUser},
      {"/shiftadd.v1.JobService/PublishBudget", kUser},
      {"/shiftadd.v1.JobService/EvaluatePackage", kUser},
      {"/shiftadd.v1.JobService/ListWorkers", kViewer},
      {"/shiftadd.v1.JobService/GetClusterStatus", kViewer},
      {"/shiftadd.v1.JobService/DrainWorker", kAdmin},

      {"/shiftadd.v1.TaskService/LeaseTask", kWorker},
      {"/shiftadd.v1.TaskService/RenewLease", kWorker},
      {"/shiftadd.v1.TaskService/CompleteTask", kWorker},
      {"/shiftadd.v1.TaskService/FailTask", kWorker},

      // Users publish what they pull from elsewhere.
      {"/shiftadd.v1.PackageService/PublishPackage", {Role::kCoordinator, Role::kUser}},
      {"/shiftadd.v1.PackageService/GetPackage", kReaders},
      {"/shiftadd.v1.PackageService/ListPackages", kReaders},
      {"/shiftadd.v1.PackageService/ResolveReference", kReaders},
      {"/shiftadd.v1.PackageService/WatchReference", kServer},
      {"/shiftadd.v1.PackageService/ListReplicas", kViewer},
      {"/shiftadd.v1.PackageService/AttachDocument", {Role::kUser, Role::kCoordinator}},
      {"/shiftadd.v1.PackageService/TagPackage", kUser},
      {"/shiftadd.v1.PackageService/DeletePackage", kAdmin},
      {"/shiftadd.v1.PackageService/CollectGarbage", kAdmin},
      {"/shiftadd.v1.PackageService/PinBlobs", kCoordinator},
      {"/shiftadd.v1.PackageService/UnpinBlobs", kCoordinator},
      {"/shiftadd.v1.PackageService/StatBlob", kBlobReaders},
      {"/shiftadd.v1.PackageService/ReadBlob", kBlobReaders},
      {"/shiftadd.v1.PackageService/WriteBlob", {Role::kUser, Role::kWorker}},

      {"/shiftadd.v1.GenerateService/Generate", kClient},
      {"/shiftadd.v1.GenerateService/Score", kClient},
      {"/shiftadd.v1.GenerateService/Tokenize", kClient},
      {"/shiftadd.v1.GenerateService/Detokenize", kClient},
      {"/shiftadd.v1.GenerateService/GetModelInfo", {Role::kClient, Role::kViewer}},

      {"/health", {}, true},
      {"/ready", {}, true},
      {"/metrics", kViewer},
      {"/v1/models", {Role::kClient, Role::kViewer}},
      {"/v1/completions", kClient},
      {"/v1/chat/completions", kClient},
      {"/tokenize", kClient},
      {"/detokenize", kClient},
      {"/tokenizer_info", {Role::kClient, Role::kViewer}},
  };
  return rules;
}

const MethodRule* FindRule(absl::string_view method) {
  static const auto& index = *new std::map<absl::string_view, const MethodRule*>([] {
    std::map<absl::string_view, const MethodRule*> map;
    for (const MethodRule& rule : MethodRules()) map[rule.method] = &rule;
    return map;
  }());
  const auto found = index.find(method);
  return found == index.end() ? nullptr : found->second;
}

}  // namespace shiftadd::access
