#include "worker/quantize/factor.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>

#include <cmath>

#include "absl/strings/str_cat.h"

namespace shiftadd::quantize {
namespace {

std::vector<double> ToVector(const at::Tensor& t) {
  const at::Tensor c = t.contiguous();
  return std::vector<double>(c.data_ptr<double>(), c.data_ptr<double>() + c.numel());
}

}  // namespace

absl::StatusOr<Factor> FactorHessian(const std::vector<double>& h, int64_t k) {
  // One ATen thread a caller: a factor must not depend on how many cores the machine has.
  at::set_num_threads(1);
  // Cholesky gives a lower factor; with both axes reversed before and after it is the upper one.
  std::vector<double> reversed(h.rbegin(), h.rend());
  const at::Tensor a = at::from_blob(reversed.data(), {k, k}, at::kDouble);
  auto [lower, info] = at::linalg_cholesky_ex(a);
  if (info.item().toInt() != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("Hessian of width ", k, " is not positive definite: Cholesky failed at pivot ",
                     info.item().toInt()));
  }
  Factor factor;
  factor.k = k;
  const std::vector<double> l = ToVector(lower);
  factor.r.assign(l.rbegin(), l.rend());
  const at::Tensor r = at::from_blob(factor.r.data(), {k, k}, at::kDouble);
  factor.u = ToVector(at::linalg_solve_triangular(r, at::eye(k, at::kDouble), /*upper=*/true));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < i; ++j) factor.r[i * k + j] = factor.u[i * k + j] = 0.0;
    for (int64_t j = i; j < k; ++j) {
      if (std::isfinite(factor.r[i * k + j]) && std::isfinite(factor.u[i * k + j])) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("factor of the Hessian of width ", k, " is not finite at ", i, ",", j));
    }
  }
  return factor;
}

}  // namespace shiftadd::quantize
