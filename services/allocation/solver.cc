#include "services/allocation/solver.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::allocation {
namespace {

// Slack for comparing sums of doubles taken in different orders: a bound must never cut off the
// optimum.
constexpr double kRounding = 1e-9;

absl::Status CheckInput(const std::vector<LayerChoices>& layers) {
  if (layers.empty()) return absl::InvalidArgumentError("allocation: no layers");
  for (const LayerChoices& layer : layers) {
    if (layer.choices.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("allocation: layer ", layer.name, " has no candidate"));
    }
    for (const Choice& c : layer.choices) {
      if (!std::isfinite(c.value) || c.value < 0) {
        return absl::InvalidArgumentError(absl::StrCat("allocation: layer ", layer.name, " at ",
                                                       c.bits, " bits: value found ", c.value,
                                                       ", expected a finite number >= 0"));
      }
    }
  }
  return absl::OkStatus();
}

uint64_t LeastCost(const LayerChoices& layer) {
  uint64_t least = std::numeric_limits<uint64_t>::max();
  for (const Choice& c : layer.choices) least = std::min(least, c.cost);
  return least;
}

// The choices that minimise value + lambda * cost layer by layer; ties go to the cheaper, then the
// earlier.
std::vector<int> PickAt(const std::vector<LayerChoices>& layers, double lambda) {
  std::vector<int> picked;
  picked.reserve(layers.size());
  for (const LayerChoices& layer : layers) {
    int best = 0;
    double best_score = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < layer.choices.size(); ++i) {
      const Choice& c = layer.choices[i];
      const double score = c.value + lambda * static_cast<double>(c.cost);
      if (score < best_score || (score == best_score && c.cost < layer.choices[best].cost)) {
        best = static_cast<int>(i);
        best_score = score;
      }
    }
    picked.push_back(best);
  }
  return picked;
}

Solution Price(const std::vector<LayerChoices>& layers, std::vector<int> picked) {
  Solution s;
  for (size_t l = 0; l < layers.size(); ++l) {
    s.cost += layers[l].choices[picked[l]].cost;
    s.value += layers[l].choices[picked[l]].value;
  }
  s.picked = std::move(picked);
  return s;
}

// Exchanges single choices while that lowers the value and still fits.
void Improve(const std::vector<LayerChoices>& layers, uint64_t budget, Solution* s) {
  bool changed = true;
  for (int round = 0; changed && round < 20; ++round) {
    changed = false;
    for (size_t l = 0; l < layers.size(); ++l) {
      for (size_t i = 0; i < layers[l].choices.size(); ++i) {
        const Choice& now = layers[l].choices[s->picked[l]];
        const Choice& other = layers[l].choices[i];
        if (other.value < now.value && s->cost - now.cost + other.cost <= budget) {
          s->cost = s->cost - now.cost + other.cost;
          s->picked[l] = static_cast<int>(i);
          changed = true;
        }
      }
    }
  }
  *s = Price(layers, s->picked);
}

struct Relaxation {
  double lambda = 0;   // price of one unit of cost
  Solution incumbent;  // feasible
  double bound = 0;    // no feasible solution is better
};

// Lagrangian relaxation by bisection on the price. Any price gives a valid bound.
Relaxation Relax(const std::vector<LayerChoices>& layers, uint64_t budget) {
  Relaxation r;
  Solution free = Price(layers, PickAt(layers, 0));
  if (free.cost <= budget) {
    r.bound = free.value;
    r.incumbent = std::move(free);
    return r;
  }
  double low = 0, high = 1e-12;
  while (Price(layers, PickAt(layers, high)).cost > budget && high < 1e290) high *= 16;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (Price(layers, PickAt(layers, middle)).cost > budget ? low : high) = middle;
  }
  r.lambda = high;
  const Solution at = Price(layers, PickAt(layers, high));
  r.bound = at.value + high * (static_cast<double>(at.cost) - static_cast<double>(budget));
  r.bound = std::max(0.0, r.bound - kRounding * at.value);
  r.incumbent = at;
  if (at.cost > budget) {  // prices beyond a double's range: fall back on the cheapest
    std::vector<int> cheapest;
    for (const LayerChoices& layer : layers) {
      int best = 0;
      for (size_t i = 1; i < layer.choices.size(); ++i) {
        if (layer.choices[i].cost < layer.choices[best].cost) best = static_cast<int>(i);
      }
      cheapest.push_back(best);
    }
    r.lambda = 0;
    r.bound = free.value;
    r.incumbent = Price(layers, cheapest);
  }
  Improve(layers, budget, &r.incumbent);
  return r;
}

struct State {
  uint64_t cost = 0;
  double value = 0;
  uint32_t parent = 0;
  uint32_t choice = 0;
};
struct Step {
  uint32_t parent;
  uint32_t choice;
};

// Drops every state that another one beats in both cost and value (first generated wins a tie).
void KeepPareto(std::vector<State>* states) {
  std::stable_sort(states->begin(), states->end(), [](const State& a, const State& b) {
    return a.cost != b.cost ? a.cost < b.cost : a.value < b.value;
  });
  double best = std::numeric_limits<double>::infinity();
  size_t kept = 0;
  for (const State& s : *states) {
    if (s.value < best) {
      best = s.value;
      (*states)[kept++] = s;
    }
  }
  states->resize(kept);
}

// Thins a Pareto list to `limit`, evenly along it; the cheapest state stays, so the rest remains
// feasible.
void Thin(std::vector<State>* states, size_t limit) {
  const size_t n = states->size();
  for (size_t i = 0; i < limit; ++i) (*states)[i] = (*states)[i * n / limit];
  states->resize(limit);
}

// What the layers after each one need at least: cost, and value + lambda * cost.
struct Tails {
  std::vector<uint64_t> cost;
  std::vector<double> priced;
};
Tails MakeTails(const std::vector<LayerChoices>& layers, double lambda) {
  Tails t{std::vector<uint64_t>(layers.size() + 1, 0), std::vector<double>(layers.size() + 1, 0)};
  const std::vector<int> at = PickAt(layers, lambda);
  for (size_t l = layers.size(); l-- > 0;) {
    const Choice& c = layers[l].choices[at[l]];
    t.cost[l] = t.cost[l + 1] + LeastCost(layers[l]);
    t.priced[l] = t.priced[l + 1] + c.value + lambda * static_cast<double>(c.cost);
  }
  return t;
}

std::vector<int> Backtrack(const std::vector<std::vector<Step>>& steps) {
  std::vector<int> picked(steps.size());
  uint32_t at =
      static_cast<uint32_t>(steps.back().size() - 1);  // the dearest state has the least value
  for (size_t l = steps.size(); l-- > 0;) {
    picked[l] = static_cast<int>(steps[l][at].choice);
    at = steps[l][at].parent;
  }
  return picked;
}

}  // namespace

absl::StatusOr<Solution> Solve(const std::vector<LayerChoices>& layers, uint64_t budget,
                               const SolverOptions& options) {
  SA_RETURN_IF_ERROR(CheckInput(layers));
  uint64_t least = 0;
  for (const LayerChoices& layer : layers) least += LeastCost(layer);
  if (least > budget) {
    return absl::FailedPreconditionError(
        absl::StrCat("budget infeasible: the cheapest choice of every layer costs ", least,
                     ", the budget is ", budget));
  }
  const Relaxation relaxed = Relax(layers, budget);
  const Tails tails = MakeTails(layers, relaxed.lambda);
  const double limit = relaxed.incumbent.value * (1 + kRounding);
  const size_t max_states = std::max<size_t>(1, options.max_states);
  bool capped = false;
  std::vector<State> states(1), next;
  std::vector<std::vector<Step>> steps(layers.size());
  for (size_t l = 0; l < layers.size(); ++l) {
    next.clear();
    for (size_t s = 0; s < states.size(); ++s) {
      for (size_t i = 0; i < layers[l].choices.size(); ++i) {
        const Choice& c = layers[l].choices[i];
        const uint64_t cost = states[s].cost + c.cost;
        if (cost + tails.cost[l + 1] > budget) continue;
        const double value = states[s].value + c.value;
        const double room = static_cast<double>(budget) - static_cast<double>(cost);
        const double reach = tails.priced[l + 1] - relaxed.lambda * room;
        // Rounding of the priced sums scales with their size, not with that of their difference.
        const double slack = kRounding * (tails.priced[0] + limit);
        if (value + std::max(0.0, reach) > limit + slack) continue;
        next.push_back({cost, value, static_cast<uint32_t>(s), static_cast<uint32_t>(i)});
      }
    }
    KeepPareto(&next);
    if (next.size() > max_states) {
      Thin(&next, max_states);
      capped = true;
    }
    if (next.empty()) break;  // thinning lost every path better than the incumbent
    steps[l].reserve(next.size());
    for (const State& s : next) steps[l].push_back({s.parent, s.choice});
    states.swap(next);
  }
  Solution best = relaxed.incumbent;
  if (!steps.back().empty()) {
    Solution found = Price(layers, Backtrack(steps));
    if (!capped || found.value < best.value) best = std::move(found);
  }
  if (capped && best.value > relaxed.bound) {
    best.gap = relaxed.bound > 0 ? (best.value - relaxed.bound) / relaxed.bound
                                 : std::numeric_limits<double>::infinity();
  }
  return best;
}

absl::StatusOr<Solution> BestUniform(const std::vector<LayerChoices>& layers, uint64_t budget) {
  SA_RETURN_IF_ERROR(CheckInput(layers));
  std::optional<std::set<int>> widths;
  for (const LayerChoices& layer : layers) {
    if (layer.choices.size() < 2) continue;
    std::set<int> offered;
    for (const Choice& c : layer.choices) {
      if (!widths.has_value() || widths->count(c.bits) > 0) offered.insert(c.bits);
    }
    widths = std::move(offered);
  }
  if (!widths.has_value() || widths->empty()) {
    return absl::NotFoundError("allocation: no width is offered by every layer");
  }
  for (auto width = widths->rbegin(); width != widths->rend(); ++width) {
    std::vector<int> picked;
    for (const LayerChoices& layer : layers) {
      size_t i = 0;
      while (layer.choices.size() > 1 && layer.choices[i].bits != *width) ++i;
      picked.push_back(static_cast<int>(i));
    }
    Solution s = Price(layers, std::move(picked));
    if (s.cost <= budget) return s;
  }
  return absl::NotFoundError(
      absl::StrCat("allocation: no uniform width fits a budget of ", budget));
}

}  // namespace shiftadd::allocation
