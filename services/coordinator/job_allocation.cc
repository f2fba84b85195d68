#include "services/coordinator/job_allocation.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/coordinator/criterion.h"
#include "services/coordinator/layer_size.h"
#include "services/coordinator/package_config.h"
#include "services/job/candidate.h"

namespace shiftadd::coordinator {
namespace {

// What quality, input digests and other numbers may still add to a config composed without them.
constexpr uint64_t kConfigReserve = 1024;

bool InBytes(const v1::JobSpec& spec) { return spec.budget().limit_case() == v1::Budget::kBytes; }

// Everything of the package but the layers, exactly but for the config.
absl::StatusOr<uint64_t> FixedBytes(const JobView& view, const BlobSizes& sizes) {
  const v1::Plan& plan = view.job().plan();
  uint64_t bytes = 0;
  for (const std::string& digest :
       {view.Ends().head_digest(), view.Ends().unquantized_digest(), plan.tokenizer_digest(),
        plan.config_digest(), plan.generation_config_digest()}) {
    if (digest.empty()) continue;
    SA_ASSIGN_OR_RETURN(const uint64_t size, sizes(digest));
    bytes += size;
  }
  v1::Variant widest;  // its numbers have the most digits
  for (const auto& [name, report] : view.Reports()) {
    if (report.candidates().empty()) continue;
    const v1::CandidateReport& c = *report.candidates().rbegin();
    v1::VariantLayer* layer = widest.add_layers();
    layer->set_layer(name);
    layer->set_digest(c.digest());
    layer->set_bits(c.bits());
  }
  SA_ASSIGN_OR_RETURN(const std::string config, ComposeConfig(view, widest, nullptr));
  return bytes + config.size() + kConfigReserve;
}

absl::StatusOr<uint64_t> PackageBytes(const JobView& view, const v1::JobSpec& spec,
                                      const v1::Variant& variant, const BlobSizes& sizes) {
  if (!InBytes(spec)) {
    uint64_t bytes = EstimateFixedBytes(view.job().plan());
    for (int l = 0; l < variant.layers_size(); ++l) {
      bytes += EstimatePackageBytes(spec.recipe(), view.job().plan().layers(l),
                                    variant.layers(l).bits());
    }
    return bytes;
  }
  SA_ASSIGN_OR_RETURN(uint64_t bytes, FixedBytes(view, sizes));
  for (const v1::VariantLayer& layer : variant.layers()) {
    SA_ASSIGN_OR_RETURN(const uint64_t size, sizes(layer.digest()));
    bytes += size;
  }
  return bytes;
}

}  // namespace

absl::Status CheckCandidates(const JobView& view) {
  const v1::Job& job = view.job();
  if (job.validate_only()) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", job.job_id(), " was a dry run: it has no candidates"));
  }
  const ReportMap reports = view.Reports();
  int profiled = 0;
  for (const v1::LayerPlan& layer : job.plan().layers()) {
    const auto report = reports.find(layer.name());
    if (report == reports.end()) continue;
    const auto widths = AllowedWidths(job.spec().recipe(), layer.name());
    profiled += std::all_of(widths.begin(), widths.end(), [&](uint32_t q) {
      return FindCandidate(report->second, q) != nullptr;
    });
  }
  const int layers = job.plan().layers_size();
  if (layers > 0 && profiled == layers && view.Done(v1::TASK_KIND_ENDS)) return absl::OkStatus();
  const char* next = "wait until it is ALLOCATING";
  if (job.state() == v1::JOB_STATE_FAILED) next = "retry it";
  if (job.state() == v1::JOB_STATE_CANCELLING || job.state() == v1::JOB_STATE_CANCELLED) {
    next = "submit it again";
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "job ", job.job_id(), " is ", v1::JobState_Name(job.state()).substr(sizeof("JOB_STATE_") - 1),
      ": ", profiled, " of ", layers, " layers have candidates, expected all of them: ", next));
}

absl::StatusOr<Allocation> AllocateJob(const JobView& view, const v1::JobSpec& spec,
                                       const BlobSizes& sizes) {
  uint64_t fixed = 0;
  if (InBytes(spec)) {
    SA_ASSIGN_OR_RETURN(fixed, FixedBytes(view, sizes));
  }
  return Allocate(spec, view.job().plan(), view.Reports(), fixed, sizes);
}

absl::StatusOr<v1::PlanBudgetResponse> PlanBudget(const JobView& view, const v1::JobSpec& spec,
                                                  const BlobSizes& sizes) {
  SA_ASSIGN_OR_RETURN(const Allocation allocation, AllocateJob(view, spec, sizes));
  const v1::Variant& variant = allocation.variants.front();
  ReportMap reports = view.Reports();
  SA_RETURN_IF_ERROR(FillImportance(spec.criterion(), &reports));
  v1::PlanBudgetResponse out;
  double weights = 0, error = 0;
  for (const v1::VariantLayer& layer : variant.layers()) {
    const v1::LayerReport& report = reports.at(layer.layer());
    const v1::CandidateReport& c = *FindCandidate(report, layer.bits());
    v1::PlannedLayer* planned = out.add_layers();
    planned->set_layer(layer.layer());
    planned->set_bits(c.bits());
    planned->set_stored_bytes(c.stored_bytes());
    planned->set_importance(c.importance());
    if (c.bits() == 0) continue;
    const auto size = static_cast<double>(report.layer().rows() * report.layer().cols());
    weights += size;
    error += size * c.output_error();
  }
  const Averages averages = AveragesOf(variant, reports);
  out.set_planes(averages.planes);
  out.set_stored_bits(averages.stored_bits);
  SA_ASSIGN_OR_RETURN(const uint64_t bytes, PackageBytes(view, spec, variant, sizes));
  out.set_package_bytes(bytes);
  out.set_importance(allocation.importance);
  out.set_importance_uniform(allocation.importance_uniform);
  out.set_uniform_bits(allocation.uniform_bits);
  out.set_output_error(weights > 0 ? error / weights : 0);
  out.set_criterion(spec.criterion());
  return out;
}

}  // namespace shiftadd::coordinator
