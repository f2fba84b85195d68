#include "services/cli/budget_plan.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "services/cli/allocation_flags.h"
#include "services/cli/bit_grid.h"
#include "services/cli/proto_json.h"
#include "services/cli/table.h"
#include "services/cli/units.h"
#include "services/job/criterion_name.h"

namespace shiftadd::cli {

std::string FormatBudgetPlans(const std::vector<BudgetPlan>& plans) {
  if (plans.empty()) return "";
  Table table({"budget", ">planes", ">stored bits", ">size", ">output error", ">criterion",
               ">uniform", ">its criterion"});
  for (const auto& [budget, plan] : plans) {
    const bool uniform = plan.uniform_bits() > 0;
    table.Add({FormatBudget(budget), FormatFixed(plan.planes(), 3),
               FormatFixed(plan.stored_bits(), 3), FormatBytes(plan.package_bytes()),
               FormatShort(plan.output_error()), FormatShort(plan.importance()),
               uniform ? absl::StrCat(plan.uniform_bits(), " bits") : "-",
               uniform ? FormatShort(plan.importance_uniform()) : "-"});
  }
  return absl::StrCat(table.ToString(), "criterion: sum of ",
                      CriterionName(plans[0].plan.criterion()),
                      " over the layers, lower is better; uniform: the widest single width that "
                      "fits\n");
}

std::string FormatWidths(const v1::PlanBudgetResponse& plan,
                         const google::protobuf::RepeatedPtrField<v1::LayerPlan>& layers) {
  std::map<std::string, uint32_t> bits;
  for (const v1::PlannedLayer& layer : plan.layers()) bits[layer.layer()] = layer.bits();
  BitGrid grid;
  for (const v1::LayerPlan& layer : layers) {
    const auto found = bits.find(layer.name());
    grid.Add(layer, found == bits.end() ? 0 : found->second);
  }
  return grid.empty() ? "" : grid.ToString();
}

nlohmann::ordered_json BudgetPlansJson(const std::vector<BudgetPlan>& plans) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const auto& [budget, plan] : plans) {
    nlohmann::ordered_json json = {{"budget", ToJson(budget)}};
    json.update(ToJson(plan));
    list.push_back(std::move(json));
  }
  return {{"plans", list}};
}

}  // namespace shiftadd::cli
