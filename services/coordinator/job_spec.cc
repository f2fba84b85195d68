#include "services/coordinator/job_spec.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "services/base/digest.h"
#include "services/base/printable.h"
#include "services/coordinator/criterion.h"
#include "services/job/recipe.h"
#include "services/packaging/reference.h"

namespace shiftadd::coordinator {
namespace {

constexpr size_t kMaxName = 200;

void CheckDigest(const std::string& digest, absl::string_view field, FaultList* faults) {
  if (!digest.empty() && !ValidateDigest(digest).ok()) {
    faults->Add(field, "expected the digest of an uploaded text, sha256: and 64 hex digits");
  }
}

void ResolveWindows(v1::JobSpec* spec, FaultList* faults) {
  v1::Calibration* c = spec->mutable_calibration();
  if (c->sequences() == 0) c->set_sequences(32);
  if (c->length() == 0) c->set_length(512);
  faults->Range<uint32_t>("calibration.sequences", c->sequences(), 1, 4096);
  faults->Range<uint32_t>("calibration.length", c->length(), 8, 32768);
  CheckDigest(c->text_digest(), "calibration.text_digest", faults);
  v1::Evaluation* e = spec->mutable_evaluation();
  if (e->sequences() == 0) e->set_sequences(8);
  if (e->length() == 0) e->set_length(c->length());
  faults->Range<uint32_t>("evaluation.sequences", e->sequences(), 1, 4096);
  faults->Range<uint32_t>("evaluation.length", e->length(), 8, 32768);
  CheckDigest(e->text_digest(), "evaluation.text_digest", faults);
  faults->Range<uint32_t>("evaluation.skip", e->skip(), 0, 1'000'000);
  if (e->skip() > 0 && e->text_digest().empty()) {
    faults->Add("evaluation.skip",
                absl::StrCat("found ", e->skip(), ", expected 0 without evaluation.text_digest"));
  }
}

void ResolveOutput(v1::JobSpec* spec, FaultList* faults) {
  std::string* output = spec->mutable_output();
  const size_t colon = output->find(':');
  const std::string name = output->substr(0, colon);
  const std::string tag = colon == std::string::npos ? "latest" : output->substr(colon + 1);
  if (name.size() > kMaxName || !packaging::IsName(name)) {
    faults->Add(
        "output",
        absl::StrCat("found name \"", name.substr(0, 100), "\", expected at most ", kMaxName,
                     " lower-case letters and digits in parts joined by . _ - /"));
  }
  if (packaging::IsReferrersTag(tag)) {
    faults->Add("output", "found a tag of the form sha256-hex, which is kept for provenance");
  } else if (!packaging::IsTag(tag)) {
    faults->Add("output", absl::StrCat("found tag \"", tag.substr(0, 100),
                                       "\", expected up to 128 letters, digits, _ . - that do not "
                                       "begin with . or -"));
  }
  *output = absl::StrCat(name, ":", tag);
}

void CheckLabels(const v1::JobSpec& spec, FaultList* faults) {
  if (spec.labels_size() > 64) {
    faults->Add("labels", absl::StrCat("found ", spec.labels_size(), ", expected 64 at most"));
  }
  for (const auto& [key, value] : spec.labels()) {
    if (key.empty() || key.size() > 128 || value.size() > 1024) {
      faults->Add("labels", "expected keys of 1 to 128 bytes and values of at most 1024");
      return;
    }
  }
}

}  // namespace

void CheckSource(const std::string& source, FaultList* faults) {
  const std::string field = "source";
  if (source.empty()) {
    faults->Add(field, "found nothing, expected file:///directory or file:///model.gguf");
  } else if (absl::StartsWith(source, "hf:") || absl::StartsWith(source, "oci:")) {
    faults->Add(field, absl::StrCat("found ", source.substr(0, source.find(':') + 1),
                                    ", which is not yet available; download the model and give "
                                    "file:///directory or file:///model.gguf"));
  } else if (!absl::StartsWith(source, "file:///")) {
    faults->Add(field, absl::StrCat("found \"", source.substr(0, 200),
                                    "\", expected file:///directory or file:///model.gguf with an "
                                    "absolute path"));
  } else if (absl::StrContains(source + "/", "/../") || HasControls(source) ||
             source.size() > 4096) {
    faults->Add(field, "expected a plain absolute path without \"..\" and control characters");
  }
}

void CheckBudget(const v1::Budget& b, const v1::Recipe& recipe, FaultList* faults) {
  const auto& bits = recipe.candidate_bits();
  switch (b.limit_case()) {
    case v1::Budget::kPlanes: {
      const auto least = static_cast<double>(*std::min_element(bits.begin(), bits.end()));
      const auto most = static_cast<double>(*std::max_element(bits.begin(), bits.end()));
      if (!(b.planes() >= least && b.planes() <= most)) {
        faults->Add("budget.planes",
                    absl::StrCat("found ", b.planes(), ", expected ", least, " to ", most,
                                 ", the range of recipe.candidate_bits"));
      }
      break;
    }
    case v1::Budget::kStoredBits:
      if (!(b.stored_bits() > 0 && b.stored_bits() <= 32)) {
        faults->Add("budget.stored_bits", absl::StrCat("found ", b.stored_bits(),
                                                       ", expected more than 0 and at most 32"));
      }
      break;
    case v1::Budget::kBytes:
      if (b.bytes() == 0 || b.bytes() > (uint64_t{1} << 56)) {
        faults->Add("budget.bytes",
                    absl::StrCat("found ", b.bytes(), ", expected a size of at least 1 byte"));
      }
      break;
    case v1::Budget::LIMIT_NOT_SET:
      faults->Add("budget", "found none, expected exactly one of planes, stored_bits, bytes");
  }
}

void ResolveCriterion(const v1::Recipe& recipe, v1::Criterion* criterion, FaultList* faults) {
  const bool guided = recipe.hessian() == v1::HESSIAN_GUIDED;
  if (*criterion == v1::CRITERION_UNSPECIFIED) {
    *criterion = guided ? v1::CRITERION_GUIDED : v1::CRITERION_OUTPUT;
  }
  if (!v1::Criterion_IsValid(*criterion)) {
    faults->Add("criterion", absl::StrCat("found the unknown value ", *criterion,
                                          ", expected guided, output, weight, paper or measured"));
  } else if (*criterion == v1::CRITERION_GUIDED && !guided) {
    faults->Add("criterion",
                "found guided, expected output, weight, paper or measured: only recipe.hessian "
                "guided predicts the loss");
  } else if (*criterion == v1::CRITERION_PAPER && recipe.method() == v1::METHOD_RTN) {
    faults->Add("criterion",
                "found paper, expected output, weight or measured: it needs a factor of the "
                "Hessian, and method rtn has none");
  }
}

std::vector<FieldFault> ResolveSpec(v1::JobSpec* spec) {
  FaultList faults;
  CheckSource(spec->source(), &faults);
  ResolveRecipe(spec->mutable_recipe(), &faults);
  CheckBudget(spec->budget(), spec->recipe(), &faults);
  v1::Criterion criterion = spec->criterion();
  ResolveCriterion(spec->recipe(), &criterion, &faults);
  spec->set_criterion(criterion);
  ResolveWindows(spec, &faults);
  ResolveOutput(spec, &faults);
  CheckLabels(*spec, &faults);
  faults.Range<int32_t>("priority", spec->priority(), -100, 100);
  return faults.Take();
}

nlohmann::json BudgetJson(const v1::Budget& b) {
  switch (b.limit_case()) {
    case v1::Budget::kPlanes:
      return {{"planes", b.planes()}};
    case v1::Budget::kStoredBits:
      return {{"stored_bits", b.stored_bits()}};
    default:
      return {{"bytes", b.bytes()}};
  }
}

}  // namespace shiftadd::coordinator
