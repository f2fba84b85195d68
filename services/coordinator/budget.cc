#include "services/coordinator/budget.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/allocation/solver.h"
#include "services/base/status_macros.h"
#include "services/coordinator/criterion.h"
#include "services/coordinator/layer_size.h"
#include "services/job/candidate.h"
#include "services/job/criterion_name.h"
#include "services/job/recipe.h"

namespace shiftadd::coordinator {
namespace {

constexpr uint64_t kConfigBytes = 4096;

uint64_t WeightsOf(const v1::LayerPlan& layer) { return layer.rows() * layer.cols(); }

// What a layer counts in the budget's average.
uint64_t CountOf(const v1::JobSpec& spec, const v1::LayerPlan& layer) {
  const bool paper =
      spec.criterion() == v1::CRITERION_PAPER && spec.budget().limit_case() == v1::Budget::kPlanes;
  return paper ? 1 : WeightsOf(layer);
}

struct Totals {
  uint64_t count = 0;   // of the quantized, see CountOf
  uint64_t planes = 0;  // times count
  uint64_t stored = 0;  // bytes of the quantized
  uint64_t bytes = 0;   // of all layers
};

Totals Sum(const v1::JobSpec& spec, const v1::Plan& plan, bool narrowest) {
  Totals t;
  for (const v1::LayerPlan& layer : plan.layers()) {
    const std::vector<uint32_t> widths = AllowedWidths(spec.recipe(), layer.name());
    const uint32_t q = narrowest ? widths.front() : widths.back();
    const uint64_t stored = EstimateStoredBytes(spec.recipe(), layer, q);
    t.bytes += EstimatePackageBytes(spec.recipe(), layer, q);
    if (q == 0) continue;
    t.count += CountOf(spec, layer);
    t.planes += q * CountOf(spec, layer);
    t.stored += stored;
  }
  return t;
}

std::string Narrowest(const v1::JobSpec& spec) {
  return absl::StrCat("every layer at its narrowest candidate (recipe.candidate_bits ",
                      absl::StrJoin(spec.recipe().candidate_bits(), ", "), ")");
}

std::string Infeasible(const v1::JobSpec& spec, const std::string& wanted,
                       const std::string& least) {
  return absl::StrCat("budget infeasible: ", wanted, " asked for, the least is ", least, " with ",
                      Narrowest(spec), ": raise the budget or offer narrower candidates");
}

std::string CheckLeast(const v1::JobSpec& spec, const Totals& least, uint64_t least_package) {
  const v1::Budget& b = spec.budget();
  const auto count = static_cast<double>(least.count);
  if (least.count == 0) return "every layer is skipped: there is nothing to quantize";
  switch (b.limit_case()) {
    case v1::Budget::kPlanes: {
      const double planes = static_cast<double>(least.planes) / count;
      if (planes <= b.planes() * (1 + 1e-12)) return "";
      return Infeasible(spec, absl::StrFormat("%g planes", b.planes()),
                        absl::StrFormat("%.4f planes", planes));
    }
    case v1::Budget::kStoredBits: {
      const double bits = 8.0 * static_cast<double>(least.stored) / count;
      if (bits <= b.stored_bits() * (1 + 1e-12)) return "";
      return Infeasible(spec, absl::StrFormat("%g stored bits", b.stored_bits()),
                        absl::StrFormat("%.4f stored bits", bits));
    }
    default:
      if (least_package <= b.bytes()) return "";
      return Infeasible(spec, absl::StrCat(b.bytes(), " bytes"),
                        absl::StrCat("about ", least_package, " bytes"));
  }
}

// The solver's unit for one candidate.
absl::StatusOr<uint64_t> CostOf(const v1::JobSpec& spec, const v1::LayerPlan& layer,
                                const v1::CandidateReport& c, const BlobSizes& sizes) {
  switch (spec.budget().limit_case()) {
    case v1::Budget::kPlanes:
      return uint64_t{c.bits()} * CountOf(spec, layer);
    case v1::Budget::kStoredBits:
      return c.bits() == 0 ? 0 : 8 * c.stored_bytes();
    default:
      return sizes(c.digest());
  }
}

absl::StatusOr<uint64_t> Limit(const v1::JobSpec& spec, uint64_t count, uint64_t fixed_bytes) {
  const v1::Budget& b = spec.budget();
  // The factor forgives the rounding of a product that ought to be a whole number.
  const double total = static_cast<double>(count) * (1 + 1e-12);
  switch (b.limit_case()) {
    case v1::Budget::kPlanes:
      return static_cast<uint64_t>(std::floor(b.planes() * total));
    case v1::Budget::kStoredBits:
      return static_cast<uint64_t>(std::floor(b.stored_bits() * total));
    default:
      if (b.bytes() > fixed_bytes) return b.bytes() - fixed_bytes;
      return absl::FailedPreconditionError(absl::StrCat("budget infeasible: ", b.bytes(),
                                                        " bytes asked for, head, embedding and ",
                                                        "documents alone take ", fixed_bytes));
  }
}

// The solver speaks its own unit; people get the budget's.
absl::Status ExplainInfeasible(const v1::JobSpec& spec,
                               const std::vector<allocation::LayerChoices>& layers, uint64_t count,
                               uint64_t fixed_bytes) {
  uint64_t least = 0;
  for (const auto& layer : layers) {
    least += std::min_element(layer.choices.begin(), layer.choices.end(),
                              [](const auto& a, const auto& b) { return a.cost < b.cost; })
                 ->cost;
  }
  const v1::Budget& b = spec.budget();
  const double average = static_cast<double>(least) / static_cast<double>(count);
  switch (b.limit_case()) {
    case v1::Budget::kPlanes:
      return absl::FailedPreconditionError(
          Infeasible(spec, absl::StrFormat("%g planes", b.planes()),
                     absl::StrFormat("%.4f planes", std::ceil(average * 1e4) / 1e4)));
    case v1::Budget::kStoredBits:
      return absl::FailedPreconditionError(
          Infeasible(spec, absl::StrFormat("%g stored bits", b.stored_bits()),
                     absl::StrFormat("%.4f stored bits", std::ceil(average * 1e4) / 1e4)));
    default:
      return absl::FailedPreconditionError(Infeasible(spec, absl::StrCat(b.bytes(), " bytes"),
                                                      absl::StrCat(least + fixed_bytes, " bytes")));
  }
}

struct Problem {
  std::vector<allocation::LayerChoices> layers;
  std::vector<std::vector<const v1::CandidateReport*>> candidates;  // as `layers`
  uint64_t count = 0;  // of the quantized layers, see CountOf
};

absl::StatusOr<Problem> MakeProblem(const v1::JobSpec& spec, const v1::Plan& plan,
                                    const ReportMap& reports, const BlobSizes& sizes) {
  Problem p;
  for (const v1::LayerPlan& layer : plan.layers()) {
    const auto report = reports.find(layer.name());
    allocation::LayerChoices choices{layer.name(), {}};
    auto& candidates = p.candidates.emplace_back();
    for (uint32_t q : AllowedWidths(spec.recipe(), layer.name())) {
      const v1::CandidateReport* c =
          report == reports.end() ? nullptr : FindCandidate(report->second, q);
      if (c == nullptr) {
        return absl::InternalError(
            absl::StrCat("layer ", layer.name(), ": no candidate of ", q, " bits was profiled"));
      }
      SA_ASSIGN_OR_RETURN(const uint64_t cost, CostOf(spec, layer, *c, sizes));
      choices.choices.push_back({static_cast<int>(q), cost, c->importance()});
      candidates.push_back(c);
    }
    if (choices.choices.front().bits > 0) p.count += CountOf(spec, layer);
    p.layers.push_back(std::move(choices));
  }
  if (p.count == 0) return absl::FailedPreconditionError("every layer is skipped");
  return p;
}

v1::Variant MakeVariant(const std::string& name, const Problem& p,
                        const allocation::Solution& solution) {
  v1::Variant variant;
  variant.set_name(name);
  for (size_t l = 0; l < p.layers.size(); ++l) {
    const v1::CandidateReport& c = *p.candidates[l][solution.picked[l]];
    v1::VariantLayer* layer = variant.add_layers();
    layer->set_layer(p.layers[l].name);
    layer->set_digest(c.digest());
    layer->set_bits(c.bits());
  }
  return variant;
}

std::string Summary(v1::Criterion criterion, const Problem& p, const allocation::Solution& solution,
                    uint32_t uniform) {
  std::map<int, int> layers_by_width;
  for (size_t l = 0; l < p.layers.size(); ++l) {
    ++layers_by_width[p.layers[l].choices[solution.picked[l]].bits];
  }
  std::string text = "allocation:";
  for (const auto& [bits, count] : layers_by_width) {
    absl::StrAppend(&text, " ", count, bits == 0 ? " skipped" : absl::StrCat(" at ", bits, " bits"),
                    ";");
  }
  absl::StrAppendFormat(&text, " sum of the %s criterion %.6g", CriterionName(criterion),
                        solution.value);
  if (solution.gap > 0)
    absl::StrAppendFormat(&text, " (at most %.3g above the best)", solution.gap);
  if (uniform > 0) absl::StrAppend(&text, "; best uniform width ", uniform);
  return text;
}

bool HasChoice(const Problem& p) {
  return std::any_of(p.layers.begin(), p.layers.end(),
                     [](const auto& layer) { return layer.choices.size() > 1; });
}

// The width that all layers with a choice have; without any choice, the one that all quantized
// layers have, or 0 if they differ.
uint32_t WidthOf(const Problem& p, const allocation::Solution& uniform) {
  const bool choice = HasChoice(p);
  uint32_t width = 0;
  for (size_t l = 0; l < p.layers.size(); ++l) {
    const auto bits = static_cast<uint32_t>(p.layers[l].choices[uniform.picked[l]].bits);
    if (choice && p.layers[l].choices.size() > 1) return bits;
    if (choice || bits == 0) continue;
    if (width > 0 && width != bits) return 0;
    width = bits;
  }
  return width;
}

}  // namespace

std::vector<uint32_t> AllowedWidths(const v1::Recipe& recipe, const std::string& layer) {
  const LayerRule rule = RuleFor(recipe, layer);
  if (rule.skip) return {0};
  if (rule.bits > 0) return {rule.bits};
  return {recipe.candidate_bits().begin(), recipe.candidate_bits().end()};
}

uint64_t EstimateFixedBytes(const v1::Plan& plan) {
  return plan.fixed_bytes() + kConfigBytes + plan.architecture_spec_json().size();
}

void FillFeasibility(const v1::JobSpec& spec, v1::Plan* plan) {
  const Totals least = Sum(spec, *plan, /*narrowest=*/true);
  const Totals most = Sum(spec, *plan, /*narrowest=*/false);
  const uint64_t fixed = EstimateFixedBytes(*plan);
  plan->set_minimum_package_bytes(fixed + least.bytes);
  plan->set_maximum_package_bytes(fixed + most.bytes);
  plan->set_budget_message(CheckLeast(spec, least, fixed + least.bytes));
  plan->set_budget_feasible(plan->budget_message().empty());
}

absl::StatusOr<Allocation> Allocate(const v1::JobSpec& spec, const v1::Plan& plan,
                                    const ReportMap& reports, uint64_t fixed_bytes,
                                    const BlobSizes& sizes) {
  ReportMap priced = reports;
  SA_RETURN_IF_ERROR(FillImportance(spec.criterion(), &priced));
  SA_ASSIGN_OR_RETURN(const Problem p, MakeProblem(spec, plan, priced, sizes));
  SA_ASSIGN_OR_RETURN(const uint64_t limit, Limit(spec, p.count, fixed_bytes));
  const auto mixed = allocation::Solve(p.layers, limit);
  if (absl::IsFailedPrecondition(mixed.status())) {
    return ExplainInfeasible(spec, p.layers, p.count, fixed_bytes);
  }
  SA_RETURN_IF_ERROR(mixed.status());
  auto uniform = allocation::BestUniform(p.layers, limit);
  if (!HasChoice(p)) uniform = *mixed;
  Allocation out;
  if (uniform.ok()) {
    out.uniform_bits = WidthOf(p, *uniform);
    out.importance_uniform = uniform->value;
    out.mixed_is_uniform = spec.uniform() || uniform->picked == mixed->picked;
  } else if (spec.uniform()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "uniform: no width that every layer has fits the budget: ", uniform.status().message()));
  }
  const allocation::Solution& chosen = spec.uniform() ? *uniform : *mixed;
  out.importance = chosen.value;
  out.variants.push_back(MakeVariant(spec.uniform() ? "uniform" : "mixed", p, chosen));
  if (uniform.ok() && !out.mixed_is_uniform) {
    out.variants.push_back(MakeVariant("uniform", p, *uniform));
  }
  out.summary = Summary(spec.criterion(), p, chosen, out.uniform_bits);
  return out;
}

Averages AveragesOf(const v1::Variant& variant, const ReportMap& reports) {
  double weights = 0, planes = 0, bits = 0;
  for (const v1::VariantLayer& layer : variant.layers()) {
    const auto report = reports.find(layer.layer());
    if (layer.bits() == 0 || report == reports.end()) continue;
    const v1::CandidateReport* c = FindCandidate(report->second, layer.bits());
    if (c == nullptr) continue;
    const auto w = static_cast<double>(WeightsOf(report->second.layer()));
    weights += w;
    planes += w * layer.bits();
    bits += 8.0 * static_cast<double>(c->stored_bytes());
  }
  return weights > 0 ? Averages{planes / weights, bits / weights} : Averages{};
}

}  // namespace shiftadd::coordinator
