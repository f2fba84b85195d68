#include "worker/tasks/tasks.h"

namespace shiftadd {

namespace {

QuantMethod MethodOf(v1::Method method) {
  switch (method) {
    case v1::METHOD_LAT:
      return QuantMethod::kLat;
    case v1::METHOD_RTN:
      return QuantMethod::kRtn;
    case v1::METHOD_ACC:
      return QuantMethod::kAcc;
    case v1::METHOD_OPTQ:
      return QuantMethod::kOptq;
    default:
      return QuantMethod::kShiftAdd;
  }
}

QuantRotation RotationOf(v1::Rotation rotation) {
  switch (rotation) {
    case v1::ROTATION_WHT128:
      return QuantRotation::kWht128;
    case v1::ROTATION_BUTTERFLY:
      return QuantRotation::kButterfly;
    default:
      return QuantRotation::kNone;
  }
}

QuantHessian HessianOf(v1::Hessian hessian) {
  switch (hessian) {
    case v1::HESSIAN_GUIDED:
      return QuantHessian::kGuided;
    case v1::HESSIAN_RMS:
      return QuantHessian::kRms;
    default:
      return QuantHessian::kPlain;
  }
}

}  // namespace

QuantRecipe ToQuantRecipe(const v1::Recipe& recipe) {
  QuantRecipe out;
  out.method = MethodOf(recipe.method());
  out.scales = recipe.scales() == v1::SCALE_KIND_FREE ? QuantScales::kFree : QuantScales::kShift;
  out.offset = recipe.offset();
  out.rotation = RotationOf(recipe.rotation());
  out.hessian = HessianOf(recipe.hessian());
  out.order = recipe.order() == v1::COLUMN_ORDER_GAR ? QuantOrder::kGar : QuantOrder::kNatural;
  if (recipe.group_size() != 0) out.group = recipe.group_size();
  if (recipe.whole_row()) out.group = -1;
  if (recipe.has_damping()) out.damping = recipe.damping();
  if (recipe.has_rounds()) out.rounds = static_cast<int>(recipe.rounds());
  if (recipe.has_inner_rounds()) out.inner_rounds = static_cast<int>(recipe.inner_rounds());
  if (recipe.has_sweeps()) out.sweeps = static_cast<int>(recipe.sweeps());
  if (recipe.chunks() != 0) out.chunks = static_cast<int>(recipe.chunks());
  if (recipe.has_additive_terms()) out.apot_terms = static_cast<int>(recipe.additive_terms());
  out.seed = recipe.seed();
  return out;
}

}  // namespace shiftadd
