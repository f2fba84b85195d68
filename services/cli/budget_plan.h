// What other budgets would give, as text and JSON.
#ifndef SHIFTADD_SERVICES_CLI_BUDGET_PLAN_H_
#define SHIFTADD_SERVICES_CLI_BUDGET_PLAN_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

struct BudgetPlan {
  v1::Budget budget;
  v1::PlanBudgetResponse plan;
};

// A row a budget, with the best uniform width that fits beside.
std::string FormatBudgetPlans(const std::vector<BudgetPlan>& plans);

// The width of every layer; `layers`: of the job's plan, for their blocks and kinds.
std::string FormatWidths(const v1::PlanBudgetResponse& plan,
                         const google::protobuf::RepeatedPtrField<v1::LayerPlan>& layers);

// {"plans": [{"budget": {…}, "layers": […], "planes": …}]}
nlohmann::ordered_json BudgetPlansJson(const std::vector<BudgetPlan>& plans);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_BUDGET_PLAN_H_
