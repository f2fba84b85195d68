#include "worker/tasks/tasks.h"

namespace shiftadd {

QuantRecipe ToQuantRecipe(const v1::Recipe& recipe) {
  QuantRecipe out;
  switch (recipe.method()) {
    case v1::METHOD_LAT:
      out.method = QuantMethod::kLat;
      break;
    case v1::METHOD_RTN:
      out.method = QuantMethod::kRtn;
      break;
    default:
      out.method = QuantMethod::kShiftAdd;
  }
  out.scales = recipe.scales() == v1::SCALE_KIND_FREE ? QuantScales::kFree : QuantScales::kShift;
  out.rotation =
      recipe.rotation() == v1::ROTATION_WHT128 ? QuantRotation::kWht128 : QuantRotation::kNone;
  out.hessian = recipe.hessian() == v1::HESSIAN_RMS ? QuantHessian::kRms : QuantHessian::kPlain;
  out.order = recipe.order() == v1::COLUMN_ORDER_GAR ? QuantOrder::kGar : QuantOrder::kNatural;
  if (recipe.group_size() != 0) out.group = recipe.group_size();
  if (recipe.has_damping()) out.damping = recipe.damping();
  if (recipe.has_rounds()) out.rounds = static_cast<int>(recipe.rounds());
  if (recipe.has_inner_rounds()) out.inner_rounds = static_cast<int>(recipe.inner_rounds());
  out.seed = recipe.seed();
  return out;
}

bool GlobMatches(const std::string& glob, const std::string& name) {
  // Greedy matching with one point of return: the last star.
  size_t g = 0, n = 0, star = std::string::npos, mark = 0;
  while (n < name.size()) {
    if (g < glob.size() && (glob[g] == '?' || glob[g] == name[n])) {
      ++g;
      ++n;
    } else if (g < glob.size() && glob[g] == '*') {
      star = g++;
      mark = n;
    } else if (star != std::string::npos) {
      g = star + 1;
      n = ++mark;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

}  // namespace shiftadd
