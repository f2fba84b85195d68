// Picks one candidate for every layer under a budget. Pure; no I/O.
#ifndef SHIFTADD_SERVICES_ALLOCATION_SOLVER_H_
#define SHIFTADD_SERVICES_ALLOCATION_SOLVER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace shiftadd::allocation {

struct Choice {
  int bits = 0;       // planes
  uint64_t cost = 0;  // in the budget's unit
  double value = 0;   // to be minimised; finite, >= 0
};
struct LayerChoices {
  std::string name;
  std::vector<Choice> choices;  // not empty; ties go to the earlier one
};

struct Solution {
  std::vector<int> picked;  // index into choices, by layer
  uint64_t cost = 0;
  double value = 0;
  double gap = 0;  // proven bound on (value - optimum) / optimum; 0 = exact
};

struct SolverOptions {
  size_t max_states =
      200'000;  // Pareto points kept a layer; beyond, points are merged and the gap is stated
};

// Exact: dynamic programme over layers that keeps every Pareto-optimal (cost, value).
// INVALID_ARGUMENT for empty input or values that are not finite; FAILED_PRECONDITION if even the
// cheapest choices exceed `budget`: the message says what the least cost is.
absl::StatusOr<Solution> Solve(const std::vector<LayerChoices>& layers, uint64_t budget,
                               const SolverOptions& options = {});

// The widest single width, the same for every layer, whose total cost fits; index by layer.
// NOT_FOUND if none fits or no width is offered by every layer with more than one choice.
absl::StatusOr<Solution> BestUniform(const std::vector<LayerChoices>& layers, uint64_t budget);

}  // namespace shiftadd::allocation

#endif  // SHIFTADD_SERVICES_ALLOCATION_SOLVER_H_
