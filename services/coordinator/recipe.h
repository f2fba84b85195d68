// What a job may ask for: validation of a JobSpec as a whole, and its defaults.
//
// Methods and what they use (a field that a method does not use must be unset, or say what the
// method does anyway):
//   shiftadd  scales shift, rotation wht128|none, hessian rms|plain, order natural (rms) or gar
//   (plain),
//             group 32|64|128, damping, rounds (15), inner_rounds (4), head int8
//   lat       hessian plain, group 128, damping, rounds (50), head raw
//   rtn       group 32|64|128, head int8
#ifndef SHIFTADD_SERVICES_COORDINATOR_RECIPE_H_
#define SHIFTADD_SERVICES_COORDINATOR_RECIPE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd::coordinator {

struct FieldFault {
  std::string field;        // recipe.candidate_bits
  std::string description;  // "found …, expected …"
};

// Fills every default of `spec` in place and returns all faults at once; empty = valid.
std::vector<FieldFault> ResolveSpec(v1::JobSpec* spec);

// "field: description; field: description".
std::string FaultMessage(const std::vector<FieldFault>& faults);

// True if `glob` (* any run, ? one character) matches all of `name`.
bool GlobMatches(absl::string_view glob, absl::string_view name);

// What the overrides say about one layer; the last one that matches counts.
struct LayerRule {
  bool skip = false;
  uint32_t bits = 0;  // 0 = the recipe's candidates
};
LayerRule RuleFor(const v1::Recipe& recipe, absl::string_view layer);

// The recipe with its overrides written out, one for each layer that has one, by its exact name:
// what tasks get, so that workers need no pattern. INVALID faults for a glob that matches no layer.
std::vector<FieldFault> ExpandOverrides(v1::Recipe* recipe, const v1::Plan& plan);

// The recipe as the package's config shows it: only what the method uses.
nlohmann::json RecipeJson(const v1::Recipe& recipe);
nlohmann::json BudgetJson(const v1::Budget& budget);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_RECIPE_H_
