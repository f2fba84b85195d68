#include "services/coordinator/result_check.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/coordinator/budget.h"
#include "services/job/candidate.h"

namespace shiftadd::coordinator {
namespace {

absl::Status Fault(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("result.", field, ": ", what));
}

absl::Status CheckDigest(absl::string_view field, const std::string& digest) {
  return Annotate(ValidateDigest(digest), absl::StrCat("result.", field));
}

absl::Status CheckIngest(const v1::Plan& plan) {
  SA_RETURN_IF_ERROR(CheckDigest("ingest.plan.config_digest", plan.config_digest()));
  SA_RETURN_IF_ERROR(CheckDigest("ingest.plan.tokenizer_digest", plan.tokenizer_digest()));
  if (plan.architecture_spec_json().empty()) {
    return Fault("ingest.plan.architecture_spec_json", "is empty");
  }
  return absl::OkStatus();
}

absl::Status CheckHash(const v1::HashTask& task, const v1::HashResult& result) {
  if (task.files_size() != result.files_size()) {
    return Fault("hash.files",
                 absl::StrCat("found ", result.files_size(), ", expected ", task.files_size()));
  }
  for (int i = 0; i < result.files_size(); ++i) {
    if (result.files(i).path() != task.files(i).path()) {
      return Fault("hash.files", absl::StrCat("found ", result.files(i).path(), ", expected ",
                                              task.files(i).path()));
    }
    SA_RETURN_IF_ERROR(
        CheckDigest(absl::StrCat("hash.files ", task.files(i).path()), result.files(i).digest()));
  }
  return absl::OkStatus();
}

absl::Status CheckCalibrate(const v1::CalibrateTask& task, const v1::CalibrateResult& result) {
  if (result.count() > task.count()) {
    return Fault("calibrate.count",
                 absl::StrCat("found ", result.count(), ", expected at most ", task.count()));
  }
  if (result.count() == 0) return absl::OkStatus();  // the text has ended: no blob
  return CheckDigest("calibrate.digest", result.digest());
}

absl::Status CheckForward(const v1::ForwardTask& task, const v1::ForwardResult& result) {
  if (result.boundaries_size() != task.split_blocks_size()) {
    return Fault("forward.boundaries", absl::StrCat("found ", result.boundaries_size(),
                                                    ", expected ", task.split_blocks_size()));
  }
  for (int i = 0; i < result.boundaries_size(); ++i) {
    const v1::Boundary& b = result.boundaries(i);
    if (b.block() != task.split_blocks(i) || b.part() != task.part()) {
      return Fault("forward.boundaries",
                   absl::StrCat("found block ", b.block(), " part ", b.part(), ", expected ",
                                task.split_blocks(i), ", ", task.part()));
    }
    SA_RETURN_IF_ERROR(CheckDigest("forward.boundaries", b.digest()));
  }
  if (!task.token_weights() && !result.token_weights().empty()) {
    return Fault("forward.token_weights",
                 absl::StrCat("found ", result.token_weights_size(), ", expected none"));
  }
  if (task.token_weights() && result.token_weights().empty()) {
    return Fault("forward.token_weights", "found none, expected one for every block");
  }
  for (int i = 0; i < result.token_weights_size(); ++i) {
    const v1::TokenWeights& w = result.token_weights(i);
    if (w.block() != static_cast<uint32_t>(i) || w.part() != task.part()) {
      return Fault("forward.token_weights",
                   absl::StrCat("found block ", w.block(), " part ", w.part(), ", expected ", i,
                                ", ", task.part()));
    }
    SA_RETURN_IF_ERROR(CheckDigest("forward.token_weights", w.digest()));
  }
  return absl::OkStatus();
}

absl::Status CheckShape(const std::string& field, const v1::LayerPlan& plan,
                        const v1::LayerReport& report) {
  if (report.layer().name() == plan.name() && report.layer().rows() == plan.rows() &&
      report.layer().cols() == plan.cols()) {
    return absl::OkStatus();
  }
  return Fault(field,
               absl::StrCat("found ", report.layer().name(), " ", report.layer().rows(), " x ",
                            report.layer().cols(), ", expected ", plan.rows(), " x ", plan.cols()));
}

// Every figure that allocation may build on.
absl::Status CheckCandidate(const std::string& field, const v1::CandidateReport& c) {
  SA_RETURN_IF_ERROR(CheckDigest(field, c.digest()));
  const struct {
    const char* name;
    double value;
  } figures[] = {{"importance", c.importance()},
                 {"weight_error", c.weight_error()},
                 {"output_error", c.output_error()},
                 {"guided_error", c.guided_error()},
                 {"paper_criterion", c.paper_criterion()}};
  for (const auto& figure : figures) {
    if (std::isfinite(figure.value) && figure.value >= 0) continue;
    return Fault(field, absl::StrCat(figure.name, " at ", c.bits(), " bits: found ", figure.value,
                                     ", expected a finite number >= 0"));
  }
  return absl::OkStatus();
}

absl::Status CheckLayer(const v1::Recipe& recipe, const v1::LayerPlan& plan,
                        const v1::LayerReport& report) {
  const std::string field = absl::StrCat("profile.layers ", plan.name());
  SA_RETURN_IF_ERROR(CheckShape(field, plan, report));
  for (uint32_t q : AllowedWidths(recipe, plan.name())) {
    const v1::CandidateReport* c = FindCandidate(report, q);
    if (c == nullptr) return Fault(field, absl::StrCat("no candidate of ", q, " bits"));
    SA_RETURN_IF_ERROR(CheckCandidate(field, *c));
  }
  return absl::OkStatus();
}

absl::Status CheckProfile(const v1::Recipe& recipe, const v1::ProfileTask& task,
                          const v1::ProfileResult& result) {
  if (task.layers_size() != result.layers_size()) {
    return Fault("profile.layers",
                 absl::StrCat("found ", result.layers_size(), ", expected ", task.layers_size()));
  }
  for (int i = 0; i < task.layers_size(); ++i) {
    SA_RETURN_IF_ERROR(CheckLayer(recipe, task.layers(i), result.layers(i)));
  }
  return absl::OkStatus();
}

absl::Status CheckEvaluate(const v1::EvaluateTask& task, const v1::EvaluateResult& result) {
  if (result.windows().empty()) return Fault("evaluate.windows", "found none");
  if (task.windows() > 0 && static_cast<uint32_t>(result.windows_size()) != task.windows()) {
    return Fault("evaluate.windows",
                 absl::StrCat("found ", result.windows_size(), ", expected ", task.windows()));
  }
  for (const v1::WindowScore& w : result.windows()) {
    if (w.tokens() == 0 || w.kl_size() != task.variants_size() ||
        w.nll_size() != task.variants_size()) {
      return Fault("evaluate.windows",
                   absl::StrCat("found ", w.tokens(), " tokens and ", w.kl_size(),
                                " variants, expected tokens and ", task.variants_size()));
    }
    const uint32_t single = task.token_scores() ? w.tokens() : 0;
    if (static_cast<uint32_t>(w.token_kl_size()) != single || w.top1_agreements() > single) {
      return Fault("evaluate.windows",
                   absl::StrCat("found ", w.token_kl_size(), " divergences of single tokens and ",
                                w.top1_agreements(), " agreements, expected ", single));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMeasure(const v1::MeasureTask& task, const v1::MeasureResult& result) {
  if (task.layers_size() != result.layers_size()) {
    return Fault("measure.layers",
                 absl::StrCat("found ", result.layers_size(), ", expected ", task.layers_size()));
  }
  for (int i = 0; i < task.layers_size(); ++i) {
    const v1::LayerReport& asked = task.layers(i);
    const v1::MeasuredLayer& found = result.layers(i);
    const std::string field = absl::StrCat("measure.layers ", asked.layer().name());
    if (found.layer() != asked.layer().name() || found.kl_size() != asked.candidates_size()) {
      return Fault(field, absl::StrCat("found ", found.layer(), " with ", found.kl_size(),
                                       " figures, expected ", asked.candidates_size()));
    }
    for (int c = 0; c < found.kl_size(); ++c) {
      if (std::isfinite(found.kl(c)) && found.kl(c) >= 0) continue;
      return Fault(field, absl::StrCat("kl at ", asked.candidates(c).bits(), " bits: found ",
                                       found.kl(c), ", expected a finite number >= 0"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRefineHessian(const v1::RefineTask& task, const v1::RefineResult& result) {
  if (result.hessians().empty() != task.layers().empty()) {
    return Fault("refine.hessians", absl::StrCat("found ", result.hessians_size(), " for ",
                                                 task.layers_size(), " layers"));
  }
  for (const v1::PartialHessian& h : result.hessians()) {
    if (h.part() != task.part()) {
      return Fault("refine.hessians",
                   absl::StrCat("part: found ", h.part(), ", expected ", task.part()));
    }
    SA_RETURN_IF_ERROR(CheckDigest("refine.hessians", h.digest()));
  }
  if (task.input() != 0) return absl::OkStatus();
  const v1::Boundary& b = result.boundary();
  if (b.block() != task.block() || b.part() != task.part()) {
    return Fault("refine.boundary", absl::StrCat("found block ", b.block(), " part ", b.part(),
                                                 ", expected ", task.block(), ", ", task.part()));
  }
  return CheckDigest("refine.boundary", b.digest());
}

absl::Status CheckRefineFit(const v1::RefineTask& task, const v1::RefineResult& result) {
  for (const v1::RefinedShard& shard : result.shards()) {
    const auto layer =
        std::find_if(task.layers().begin(), task.layers().end(),
                     [&](const v1::LayerPlan& l) { return l.name() == shard.layer(); });
    if (layer == task.layers().end()) {
      return Fault("refine.shards",
                   absl::StrCat("found layer ", shard.layer(), ", expected one of the task's"));
    }
    if (shard.row_begin() >= shard.row_end() || shard.row_end() > layer->rows()) {
      return Fault("refine.shards",
                   absl::StrCat(shard.layer(), ": found rows ", shard.row_begin(), " to ",
                                shard.row_end(), ", expected some of ", layer->rows()));
    }
    SA_RETURN_IF_ERROR(CheckDigest(absl::StrCat("refine.shards ", shard.layer()), shard.digest()));
  }
  return absl::OkStatus();
}

absl::Status CheckRefineJoin(const v1::RefineTask& task, const v1::RefineResult& result) {
  if (task.layers_size() != result.layers_size()) {
    return Fault("refine.layers",
                 absl::StrCat("found ", result.layers_size(), ", expected ", task.layers_size()));
  }
  for (int i = 0; i < task.layers_size(); ++i) {
    const v1::LayerReport& report = result.layers(i);
    const std::string field = absl::StrCat("refine.layers ", task.layers(i).name());
    SA_RETURN_IF_ERROR(CheckShape(field, task.layers(i), report));
    const uint32_t bits = i < task.bits_size() ? task.bits(i) : 0;
    if (report.candidates_size() != 1 || report.candidates(0).bits() != bits) {
      return Fault(field, absl::StrCat("found ", report.candidates_size(),
                                       " candidates, expected one of ", bits, " bits"));
    }
    SA_RETURN_IF_ERROR(CheckCandidate(field, report.candidates(0)));
  }
  return absl::OkStatus();
}

absl::Status CheckRefine(const v1::RefineTask& task, const v1::RefineResult& result) {
  switch (task.step()) {
    case v1::REFINE_STEP_HESSIAN:
      return CheckRefineHessian(task, result);
    case v1::REFINE_STEP_FIT:
      return CheckRefineFit(task, result);
    case v1::REFINE_STEP_JOIN:
      return CheckRefineJoin(task, result);
    default:
      return Fault("refine", absl::StrCat("the task is of an unknown step ", task.step()));
  }
}

}  // namespace

absl::Status CheckResult(const v1::Task& task, const v1::TaskResult& result) {
  // The numbers of the two oneofs are equal for equal kinds.
  if (static_cast<int>(task.payload_case()) != static_cast<int>(result.result_case())) {
    return Fault("result", absl::StrCat("found kind ", result.result_case(), ", expected ",
                                        v1::TaskKind_Name(task.kind())));
  }
  switch (result.result_case()) {
    case v1::TaskResult::kIngest:
      return CheckIngest(result.ingest().plan());
    case v1::TaskResult::kHash:
      return CheckHash(task.hash(), result.hash());
    case v1::TaskResult::kCalibrate:
      return CheckCalibrate(task.calibrate(), result.calibrate());
    case v1::TaskResult::kForward:
      return CheckForward(task.forward(), result.forward());
    case v1::TaskResult::kProfile:
      return CheckProfile(task.context().recipe(), task.profile(), result.profile());
    case v1::TaskResult::kEnds:
      SA_RETURN_IF_ERROR(CheckDigest("ends.head_digest", result.ends().head_digest()));
      return CheckDigest("ends.unquantized_digest", result.ends().unquantized_digest());
    case v1::TaskResult::kEvaluate:
      return CheckEvaluate(task.evaluate(), result.evaluate());
    case v1::TaskResult::kRefine:
      return CheckRefine(task.refine(), result.refine());
    case v1::TaskResult::kMeasure:
      return CheckMeasure(task.measure(), result.measure());
    case v1::TaskResult::RESULT_NOT_SET:
      return Fault("result", "is empty");
  }
  return Fault("result", "is of an unknown kind");
}

}  // namespace shiftadd::coordinator
