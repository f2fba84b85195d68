#include "worker/quantize/device_hessian.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/rotation.h"
#include "services/base/status_macros.h"
#include "worker/quantize/prepared_hessian.h"
#include "worker/reference/device_sum.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::quantize {
namespace {

constexpr int64_t kInverseBase = 512;

void InvertLowerInto(const at::Tensor& lower, const at::Tensor& out) {
  const int64_t k = lower.size(0);
  if (k <= kInverseBase) {
    out.copy_(at::linalg_solve_triangular(lower, at::eye(k, lower.options()), /*upper=*/false));
    return;
  }
  const int64_t half = (k / 2 + 127) / 128 * 128;
  const auto part = [&](const at::Tensor& m, bool row, bool column) {
    return m.narrow(0, row ? half : 0, row ? k - half : half)
        .narrow(1, column ? half : 0, column ? k - half : half);
  };
  InvertLowerInto(part(lower, false, false), part(out, false, false));
  InvertLowerInto(part(lower, true, true), part(out, true, true));
  part(out, true, false)
      .copy_(
          at::mm(part(out, true, true), at::mm(part(lower, true, false), part(out, false, false)))
              .neg_());
}

at::Tensor IndexTensor(const std::vector<int64_t>& values, at::Device device) {
  return at::from_blob(const_cast<int64_t*>(values.data()), {static_cast<int64_t>(values.size())},
                       at::kLong)
      .clone()
      .to(device);
}

std::vector<double> ToHost(const at::Tensor& x) {
  const at::Tensor host = x.to(at::kDouble).cpu().contiguous();
  return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel()};
}

// U and the R_GG of m [k, k], damped as FactorDamped of prepared_hessian.cc does it.
absl::Status Factor(at::Tensor m, double damping, DeviceHessianImpl* out) {
  const int64_t k = out->k;
  double damped = 0.0;
  at::Tensor lower;
  for (double lambda = std::max(damping, 1e-10);; lambda *= 10.0) {
    if (lambda > 1e3) {
      return absl::FailedPreconditionError(
          absl::StrCat("Hessian of width ", k, " is not positive definite with damping ", damped));
    }
    m.diagonal().add_(lambda - damped);
    damped = lambda;
    // Cholesky gives a lower factor; with both axes reversed before and after it is the upper one.
    at::Tensor info;
    std::tie(lower, info) = at::linalg_cholesky_ex(m.flip({0, 1}));
    if (info.item().toInt() == 0) break;
  }
  out->damping = damped;
  out->h = m.to(at::kFloat);
  m.reset();
  // LibTorch leaves zeros above the diagonal.
  const at::Tensor inverse = InvertLower(lower);
  if (!at::isfinite(inverse.diagonal()).all().item<bool>()) {
    return absl::FailedPreconditionError(
        absl::StrCat("factor of the Hessian of width ", k, " is not finite"));
  }
  out->u = inverse.flip({0, 1}).to(at::kFloat).contiguous();
  const at::Tensor r = lower.flip({0, 1});
  const int64_t group = out->group, groups = (k + group - 1) / group;
  out->r = at::zeros({groups, group, group}, out->u.options());
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * group, size = std::min(group, k - begin);
    out->r[g]
        .narrow(0, 0, size)
        .narrow(1, 0, size)
        .copy_(r.narrow(0, begin, size).narrow(1, begin, size));
  }
  return absl::OkStatus();
}

absl::Status PrepareOnDevice(at::Tensor sum, int64_t tokens, const QuantRecipe& recipe,
                             DeviceHessianImpl* out) {
  const int64_t k = out->k;
  const at::Device device = sum.device();
  at::Tensor m = sum.triu(1);
  m = m + m.t();
  m.diagonal().copy_(sum.diagonal());
  sum.reset();
  const std::vector<double> diagonal = ToHost(m.diagonal());
  double total = 0.0;
  std::vector<int64_t> dead;
  for (int64_t i = 0; i < k; ++i) {
    if (!std::isfinite(diagonal[i]) || diagonal[i] < 0.0) {
      return absl::InvalidArgumentError(absl::StrCat("Hessian: element ", i, ",", i, " is ",
                                                     diagonal[i],
                                                     ", expected a finite number, not negative"));
    }
    if (diagonal[i] == 0.0) dead.push_back(i);
    total += diagonal[i];
  }
  const auto live = static_cast<double>(k - static_cast<int64_t>(dead.size()));
  const double per_token = 1.0 / static_cast<double>(std::max<int64_t>(tokens, 1));
  const double mean = live > 0 ? total / live : 1.0;
  out->scale = live > 0 ? mean * per_token : 1.0;
  out->weights_die = !dead.empty() && live > 0;
  m.mul_(1.0 / mean);
  if (!dead.empty()) {
    out->dead = IndexTensor(dead, device);
    m.diagonal().index_fill_(0, out->dead, 1.0);
  }
  if (recipe.rotation == QuantRotation::kWht128) {
    out->signs = RotationSigns(recipe.seed, k);
    out->rotation = DeviceRotation(k, out->signs, device);
    m = out->rotation.Rotate(m);
    m = out->rotation.Rotate(m.t().contiguous());
    // Exactly symmetric, as the quantizer takes it.
    m = m.add(m.t()).mul_(0.5);
  }
  if (recipe.order == QuantOrder::kGar) {
    out->order = GarOrder(ToHost(m.diagonal()), out->group);
    out->order_on_device = IndexTensor(out->order, device);
    std::vector<int64_t> inverse(k);
    for (int64_t p = 0; p < k; ++p) inverse[out->order[p]] = p;
    out->inverse = IndexTensor(inverse, device);
    m = m.index_select(0, out->order_on_device).index_select(1, out->order_on_device);
  }
  return Factor(std::move(m), recipe.damping, out);
}

}  // namespace

DeviceRotation::DeviceRotation(int64_t k, const std::vector<uint32_t>& signs, at::Device device)
    : k_(k) {
  std::vector<double> plus_minus(k), identity(kernels::kRotationBlock * kernels::kRotationBlock);
  for (int64_t i = 0; i < k; ++i) plus_minus[i] = (signs[i / 32] >> (i % 32)) & 1u ? 1.0 : -1.0;
  const std::vector<uint32_t> all_plus(kernels::kRotationBlock / 32, ~0u);
  for (int64_t i = 0; i < kernels::kRotationBlock; ++i) {
    identity[i * kernels::kRotationBlock + i] = 1.0;
    kernels::Rotate(identity.data() + i * kernels::kRotationBlock, kernels::kRotationBlock,
                    all_plus.data());
  }
  signs_ = at::from_blob(plus_minus.data(), {k}, at::kDouble).clone().to(device);
  hadamard_ = at::from_blob(identity.data(), {kernels::kRotationBlock, kernels::kRotationBlock},
                            at::kDouble)
                  .clone()
                  .to(device);
}

at::Tensor DeviceRotation::Transform(const at::Tensor& x) const {
  constexpr int64_t kBlock = kernels::kRotationBlock;
  const at::Tensor hadamard = hadamard_.to(x.scalar_type());
  const int64_t rows = x.size(0), whole = k_ / kBlock * kBlock;
  std::vector<at::Tensor> parts;
  if (whole > 0) {
    parts.push_back(
        at::mm(x.narrow(1, 0, whole).reshape({-1, kBlock}), hadamard).view({rows, whole}));
  }
  kernels::ForEachRotationBlock(k_, [&](int64_t begin, int64_t size) {
    if (begin < whole) return;
    // A Sylvester-Hadamard matrix begins with the smaller ones.
    const at::Tensor corner = hadamard.narrow(0, 0, size).narrow(1, 0, size) *
                              std::sqrt(static_cast<double>(kBlock) / static_cast<double>(size));
    parts.push_back(at::mm(x.narrow(1, begin, size), corner));
  });
  return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
}

// Hadamard matrices are symmetric: D = Had sigma, D^T = sigma Had.
at::Tensor DeviceRotation::Rotate(const at::Tensor& x) const {
  return Transform(x * signs_.to(x.scalar_type()));
}

at::Tensor DeviceRotation::Unrotate(const at::Tensor& x) const {
  return Transform(x).mul_(signs_.to(x.scalar_type()));
}

at::Tensor InvertLower(const at::Tensor& lower) {
  at::Tensor out = at::zeros_like(lower, at::MemoryFormat::Contiguous);
  InvertLowerInto(lower, out);
  return out;
}

}  // namespace shiftadd::quantize

namespace shiftadd {

absl::StatusOr<std::shared_ptr<const DeviceHessian>> DeviceHessian::Create(
    InputSum* sum, int64_t tokens, const QuantRecipe& recipe) {
  auto out = std::make_shared<quantize::DeviceHessianImpl>();
  out->k = sum->width();
  // Whole rows are rounded up as the kernels want them, which changes neither order nor groups.
  out->group = recipe.group > 0 && recipe.group <= 128
                   ? recipe.group
                   : (quantize::EffectiveGroup(recipe.group, out->k) + 31) / 32 * 32;
  out->recipe = recipe;
  const absl::Status status = CatchTorch([&] {
    return quantize::PrepareOnDevice(static_cast<reference::DeviceSum*>(sum)->Release(), tokens,
                                     recipe, out.get());
  });
  if (!status.ok())
    return Annotate(status, absl::StrCat("factor of a Hessian of ", out->k, " inputs"));
  return std::shared_ptr<const DeviceHessian>(std::move(out));
}

}  // namespace shiftadd
