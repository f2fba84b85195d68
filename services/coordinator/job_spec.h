// What a job may ask for: validation of a JobSpec as a whole, and its defaults.
#ifndef SHIFTADD_SERVICES_COORDINATOR_JOB_SPEC_H_
#define SHIFTADD_SERVICES_COORDINATOR_JOB_SPEC_H_

#include <vector>

#include "nlohmann/json.hpp"
#include "services/job/field_faults.h"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd::coordinator {

// Fills every default of `spec` in place and returns all faults at once; empty = valid. A resolved
// spec resolves to itself.
std::vector<FieldFault> ResolveSpec(v1::JobSpec* spec);

// Faults of a budget over the candidates of `recipe`, which must be resolved.
void CheckBudget(const v1::Budget& budget, const v1::Recipe& recipe, FaultList* faults);

// Fills in the default and faults what the recipe's Hessians cannot give.
void ResolveCriterion(const v1::Recipe& recipe, v1::Criterion* criterion, FaultList* faults);

// Where a full-precision model may be.
void CheckSource(const std::string& source, FaultList* faults);

// The budget as the package's config shows it.
nlohmann::json BudgetJson(const v1::Budget& budget);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_JOB_SPEC_H_
