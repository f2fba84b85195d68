// Jobs that measure a published package.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/ids.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/base/trace.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/evaluated_package.h"
#include "services/coordinator/evaluation_figures.h"
#include "services/coordinator/job_spec.h"
#include "services/packaging/package_format.h"
#include "services/packaging/reference.h"

namespace shiftadd::coordinator {
namespace {

constexpr uint64_t kDefaultLength = 2048;

// What needs no package to be known.
void CheckRequest(const v1::EvaluatePackageRequest& request, FaultList* faults) {
  if (const auto reference = packaging::ParseReference(request.package()); !reference.ok()) {
    faults->Add("package", reference.status().message());
  }
  const v1::Evaluation& e = request.evaluation();
  if (e.text_digest().empty() || !ValidateDigest(e.text_digest()).ok()) {
    faults->Add("evaluation.text_digest",
                "expected the digest of an uploaded text, sha256: and 64 hex digits");
  }
  faults->Range<uint32_t>("evaluation.sequences", e.sequences(), 0, kMaxEvaluationWindows);
  if (e.length() > 0) faults->Range<uint32_t>("evaluation.length", e.length(), 8, 32768);
  faults->Range<uint32_t>("evaluation.skip", e.skip(), 0, 1'000'000);
  faults->Range<int32_t>("priority", request.priority(), -100, 100);
  if (!request.source().empty()) CheckSource(request.source(), faults);
}

// What the package says of its context and its source.
void Resolve(const EvaluatedPackage& package, v1::JobSpec* spec, FaultList* faults) {
  v1::Evaluation* e = spec->mutable_evaluation();
  if (e->length() == 0) {
    e->set_length(static_cast<uint32_t>(
        package.context > 0 ? std::min(kDefaultLength, package.context) : kDefaultLength));
  }
  if (package.context > 0 && e->length() > package.context) {
    faults->Add("evaluation.length",
                absl::StrCat("found ", e->length(), ", expected at most the model's context of ",
                             package.context, " tokens"));
  }
  if (spec->source().empty() && !package.source.empty()) {
    spec->set_source(package.source);
    CheckSource(spec->source(), faults);  // whoever published it has written it there
  }
}

}  // namespace

absl::StatusOr<v1::Job> Coordinator::EvaluatePackage(const v1::EvaluatePackageRequest& request,
                                                     const std::string& owner,
                                                     std::vector<FieldFault>* faults) {
  NewJob created;
  created.request_id = request.request_id();
  created.fingerprint = absl::StrCat("evaluate|", request.SerializeAsString());
  SA_ASSIGN_OR_RETURN(std::optional<JobRecord> known,
                      store_->FindRequest(owner, created.request_id, created.fingerprint));
  if (known.has_value()) return WithProgress(*std::move(known));
  SA_RETURN_IF_ERROR(CheckQuota(owner, created.request_id, created.fingerprint));

  FaultList list;
  CheckRequest(request, &list);
  *faults = list.Take();
  CheckRequestId(request.request_id(), faults);
  if (!faults->empty()) return absl::InvalidArgumentError(FaultMessage(*faults));
  const absl::StatusOr<v1::Package> package = publisher_->GetPackage(request.package());
  if (!package.ok()) return Annotate(package.status(), "packager");
  SA_ASSIGN_OR_RETURN(const EvaluatedPackage measured, ReadEvaluatedPackage(*package));

  v1::Job& job = created.job;
  v1::JobSpec* spec = job.mutable_spec();
  spec->set_source(request.source());
  *spec->mutable_evaluation() = request.evaluation();
  spec->set_priority(request.priority());
  spec->set_any_device(request.any_device());
  spec->set_output(request.package());
  // By its digest: a tag may move meanwhile.
  spec->set_evaluated_package(absl::StrCat(package->name(), "@", package->digest()));
  Resolve(measured, spec, &list);
  *faults = list.Take();
  if (!faults->empty()) return absl::InvalidArgumentError(FaultMessage(*faults));
  if (spec->source().empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "package ", request.package(),
        ": its provenance does not say where the full-precision model is: give source"));
  }
  job.set_job_id(NewId("job"));
  job.set_owner(owner);
  job.set_state(v1::JOB_STATE_QUEUED);
  job.set_trace_id(ThisTraceId());
  *job.mutable_plan() = measured.plan;
  created.quantizer_version = options_.quantizer_version;
  std::vector<std::string> kept = PackageBlobs(*package);
  kept.push_back(spec->evaluation().text_digest());
  const absl::Status pinned = publisher_->Pin(job.job_id(), kept);
  if (absl::IsNotFound(pinned)) return absl::NotFoundError(pinned.message());
  SA_RETURN_IF_ERROR(Annotate(pinned, "packager"));
  const absl::StatusOr<JobRecord> stored = store_->CreateJob(created);
  if (!stored.ok() || stored->job.job_id() != job.job_id()) {
    publisher_->Unpin(job.job_id()).IgnoreError();
    SA_RETURN_IF_ERROR(stored.status());
  } else {
    spdlog::info("{}: {} measures {}", job.job_id(), owner, spec->evaluated_package());
  }
  return WithProgress(*stored);
}

absl::Status Coordinator::AttachEvaluation(const v1::Job& job) {
  return publisher_->Attach(job.spec().evaluated_package(), kEvaluationArtifactType,
                            EvaluationJson(job.package_evaluation()));
}

}  // namespace shiftadd::coordinator
