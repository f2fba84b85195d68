// What users ask about budgets beyond the one that a job was submitted with.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/base/ids.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/base/trace.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/job_allocation.h"
#include "services/coordinator/job_spec.h"
#include "services/coordinator/planner.h"

namespace shiftadd::coordinator {
namespace {

constexpr size_t kMostSizes = 1'000'000;

absl::Status CheckQuantizes(const v1::Job& job) {
  if (job.spec().evaluated_package().empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("job ", job.job_id(), ": it measures a package and has no candidates"));
}

absl::Status CheckParent(const JobView& view, const std::string& quantizer_version) {
  const v1::Job& job = view.job();
  if (job.state() != v1::JOB_STATE_SUCCEEDED) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", job.job_id(), ": state found ",
        v1::JobState_Name(job.state()).substr(sizeof("JOB_STATE_") - 1), ", expected SUCCEEDED"));
  }
  if (job.spec().recipe().propagate() == v1::PROPAGATE_QUANTIZED) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", job.job_id(),
                     ": its layers were refined for its own budget (recipe.propagate "
                     "quantized) and are no candidates for another: submit another job"));
  }
  const std::string fault = VersionFault(view.record(), quantizer_version);
  if (!fault.empty()) return absl::FailedPreconditionError(fault);
  return CheckCandidates(view);
}

// A child has no INGEST task, which would look.
void CheckWindow(const v1::Plan& plan, const v1::Evaluation& evaluation,
                 std::vector<FieldFault>* faults) {
  const auto spec = nlohmann::json::parse(plan.architecture_spec_json(), nullptr, false);
  if (!spec.is_object() || !spec.contains("context") || !spec["context"].is_number()) return;
  const auto context = spec["context"].get<double>();
  if (evaluation.length() <= context) return;
  faults->push_back({"evaluation.length", absl::StrCat("found ", evaluation.length(),
                                                       ", expected at most the model's context of ",
                                                       context, " tokens")});
}

v1::JobSpec ChildSpec(const v1::Job& parent, const v1::PublishBudgetRequest& request) {
  v1::JobSpec spec = parent.spec();
  *spec.mutable_budget() = request.budget();
  spec.set_output(request.output());
  if (request.criterion() != v1::CRITERION_UNSPECIFIED) spec.set_criterion(request.criterion());
  if (request.has_evaluation()) *spec.mutable_evaluation() = request.evaluation();
  spec.set_uniform(request.uniform());
  spec.set_parent_job_id(parent.job_id());
  return spec;
}

// What the parent's workers found out, as rows of the child, and how they did: a candidate that is
// lost is made again from the beginning on. Held-out windows are the child's own; the source is
// hashed again, as it may have changed.
std::vector<NewTask> Inherited(const JobView& parent, const v1::Job& child) {
  std::vector<NewTask> tasks;
  for (const ViewedTask& t : parent.tasks()) {
    const v1::TaskKind kind = t.record.kind;
    const bool kept = kind == v1::TASK_KIND_INGEST || kind == v1::TASK_KIND_FORWARD ||
                      kind == v1::TASK_KIND_PROFILE || kind == v1::TASK_KIND_MEASURE ||
                      kind == v1::TASK_KIND_ENDS ||
                      (kind == v1::TASK_KIND_CALIBRATE && !t.task.calibrate().held_out());
    if (!kept || t.record.state != TaskState::kDone) continue;
    v1::Task task = t.task;
    task.mutable_context()->set_job_id(child.job_id());
    task.mutable_context()->set_trace_id(child.trace_id());
    tasks.push_back({kind, t.record.ordinal, t.record.lane, t.record.rank, task.SerializeAsString(),
                     t.result.SerializeAsString(), t.record.worker});
  }
  return tasks;
}

}  // namespace

BlobSizes Coordinator::Sizes() {
  return [this](const std::string& digest) -> absl::StatusOr<uint64_t> {
    {
      std::lock_guard<std::mutex> hold(size_mutex_);
      const auto known = sizes_.find(digest);
      if (known != sizes_.end()) return known->second;
    }
    SA_ASSIGN_OR_RETURN(const uint64_t size, publisher_->BlobSize(digest));
    std::lock_guard<std::mutex> hold(size_mutex_);
    if (sizes_.size() > kMostSizes) sizes_.clear();
    sizes_[digest] = size;
    return size;
  };
}

absl::StatusOr<v1::PlanBudgetResponse> Coordinator::PlanBudget(const v1::PlanBudgetRequest& request,
                                                               std::vector<FieldFault>* faults) {
  SA_ASSIGN_OR_RETURN(const JobView view, JobView::Read(store_, request.job_id()));
  SA_RETURN_IF_ERROR(CheckQuantizes(view.job()));
  v1::JobSpec spec = view.job().spec();
  *spec.mutable_budget() = request.budget();
  spec.set_uniform(false);
  v1::Criterion criterion = request.criterion();
  if (criterion == v1::CRITERION_UNSPECIFIED) criterion = spec.criterion();
  FaultList list;
  CheckBudget(spec.budget(), spec.recipe(), &list);
  ResolveCriterion(spec.recipe(), &criterion, &list);
  spec.set_criterion(criterion);
  *faults = list.Take();
  if (!faults->empty()) return absl::InvalidArgumentError(FaultMessage(*faults));
  SA_RETURN_IF_ERROR(CheckCandidates(view));
  return coordinator::PlanBudget(view, spec, Sizes());
}

absl::StatusOr<v1::Job> Coordinator::PublishBudget(const v1::PublishBudgetRequest& request,
                                                   const std::string& owner,
                                                   std::vector<FieldFault>* faults) {
  NewJob child;
  child.request_id = request.request_id();
  child.fingerprint = absl::StrCat("publish|", request.SerializeAsString());
  SA_ASSIGN_OR_RETURN(std::optional<JobRecord> known,
                      store_->FindRequest(owner, child.request_id, child.fingerprint));
  if (known.has_value()) return WithProgress(*std::move(known));
  SA_RETURN_IF_ERROR(CheckQuota(owner, child.request_id, child.fingerprint));

  SA_ASSIGN_OR_RETURN(const JobView parent, JobView::Read(store_, request.job_id()));
  SA_RETURN_IF_ERROR(CheckQuantizes(parent.job()));
  v1::JobSpec spec = ChildSpec(parent.job(), request);
  *faults = ResolveSpec(&spec);
  CheckRequestId(request.request_id(), faults);
  CheckWindow(parent.job().plan(), spec.evaluation(), faults);
  if (!faults->empty()) return absl::InvalidArgumentError(FaultMessage(*faults));
  SA_RETURN_IF_ERROR(CheckParent(parent, options_.quantizer_version));
  // Known now, it need not be found out by a job.
  SA_RETURN_IF_ERROR(AllocateJob(parent, spec, Sizes()).status());

  v1::Job& job = child.job;
  job.set_job_id(NewId("job"));
  job.set_owner(owner);
  job.set_state(v1::JOB_STATE_QUEUED);
  job.set_device_class(parent.job().device_class());
  job.set_trace_id(ThisTraceId());
  *job.mutable_spec() = spec;
  SA_RETURN_IF_ERROR(CheckOutput(owner, child));
  *job.mutable_plan() = parent.job().plan();
  child.quantizer_version = options_.quantizer_version;
  child.tasks = Inherited(parent, job);
  // Pinned before the job exists: from here on the parent may be deleted. If this process dies in
  // between, the pins expire by themselves.
  const absl::Status pinned = publisher_->Pin(job.job_id(), parent.KeptBlobs());
  if (absl::IsNotFound(pinned)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", parent.job().job_id(), ": its candidates are no longer kept: ", pinned.message(),
        ": submit the job again"));
  }
  SA_RETURN_IF_ERROR(Annotate(pinned, "packager"));
  const absl::StatusOr<JobRecord> created = store_->CreateJob(child);
  if (!created.ok() || created->job.job_id() != job.job_id()) {
    publisher_->Unpin(job.job_id()).IgnoreError();
    SA_RETURN_IF_ERROR(created.status());
  } else {
    spdlog::info("{}: published by {} from {}", job.job_id(), owner, request.job_id());
  }
  return WithProgress(*created);
}

}  // namespace shiftadd::coordinator
