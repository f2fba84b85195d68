#include "worker/quantize/factor.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::quantize {

namespace {

absl::Status FillFactor(const std::vector<double>& h, int64_t k, Factor* out) {
  // One ATen thread a caller: a factor must not depend on how many cores the machine has.
  at::set_num_threads(1);
  const int64_t count = k * k;
  Factor& factor = *out;
  factor.k = k;
  // Each step's input goes before the next: wide layers have room for few matrices at a time.
  {
    // Cholesky gives a lower factor; with both axes reversed before and after it is the upper one.
    factor.r.assign(h.rbegin(), h.rend());
    const at::Tensor a = at::from_blob(factor.r.data(), {k, k}, at::kDouble);
    const auto [lower, info] = at::linalg_cholesky_ex(a);
    if (info.item().toInt() != 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "Hessian of width ", k, " is not positive definite: Cholesky failed at pivot ",
          info.item().toInt()));
    }
    const at::Tensor l = lower.contiguous();
    std::reverse_copy(l.data_ptr<double>(), l.data_ptr<double>() + count, factor.r.data());
  }
  {
    const at::Tensor r = at::from_blob(factor.r.data(), {k, k}, at::kDouble);
    at::Tensor u = at::linalg_solve_triangular(r, at::eye(k, at::kDouble), /*upper=*/true);
    u = u.contiguous();
    factor.u.assign(u.data_ptr<double>(), u.data_ptr<double>() + count);
  }
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < i; ++j) factor.r[i * k + j] = factor.u[i * k + j] = 0.0;
    for (int64_t j = i; j < k; ++j) {
      if (std::isfinite(factor.r[i * k + j]) && std::isfinite(factor.u[i * k + j])) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("factor of the Hessian of width ", k, " is not finite at ", i, ",", j));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Factor> FactorHessian(const std::vector<double>& h, int64_t k) {
  Factor factor;
  SA_RETURN_IF_ERROR(CatchTorch([&] { return FillFactor(h, k, &factor); }));
  return factor;
}

}  // namespace shiftadd::quantize
