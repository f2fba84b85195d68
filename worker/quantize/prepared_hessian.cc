#include "worker/quantize/prepared_hessian.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/rotation.h"
#include "services/base/status_macros.h"

namespace shiftadd::quantize {
namespace {

// Columns between two trailing updates in methods that do not quantize by groups of inputs.
constexpr int64_t kFeedbackColumns = 128;

absl::Status CheckHessian(const HessianMatrix& h) {
  if (h.k < 1 || static_cast<int64_t>(h.h.size()) != h.k * h.k) {
    return absl::InvalidArgumentError(
        absl::StrCat("Hessian: found ", h.h.size(), " values, expected ", h.k, " x ", h.k));
  }
  for (int64_t i = 0; i < h.k * h.k; ++i) {
    if (!std::isfinite(h.h[i]) || (i % (h.k + 1) == 0 && h.h[i] < 0.0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("Hessian: element ", i / h.k, ",", i % h.k, " is ", h.h[i],
                       ", expected a finite number, not negative on the diagonal"));
    }
  }
  return absl::OkStatus();
}

// D H D^T in place: rows, then, transposed, rows again.
void RotateSymmetric(std::vector<double>* h, int64_t k, const uint32_t* signs) {
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t i = 0; i < k; ++i) kernels::Rotate(h->data() + i * k, k, signs);
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < i; ++j) std::swap((*h)[i * k + j], (*h)[j * k + i]);
    }
  }
}

std::vector<double> Permute(std::vector<double> h, const std::vector<int64_t>& order) {
  const int64_t k = static_cast<int64_t>(order.size());
  if (std::is_sorted(order.begin(), order.end())) return h;
  std::vector<double> out(h.size());
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) out[i * k + j] = h[order[i] * k + order[j]];
  }
  return out;
}

PanelMatrix QuadraticForm(const std::vector<double>& h, int64_t k) {
  PanelMatrix quad(k, k);
  for (int64_t i = 0; i < k; ++i) {
    quad.at(i, i) = static_cast<float>(h[i * k + i]);
    for (int64_t j = i + 1; j < k; ++j) quad.at(i, j) = static_cast<float>(2.0 * h[i * k + j]);
  }
  return quad;
}

PanelMatrix ToPanels(const std::vector<double>& m, int64_t k) {
  PanelMatrix out(k, k);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) out.at(i, j) = static_cast<float>(m[i * k + j]);
  }
  return out;
}

// Rank deficiency is what damping is for; should rounding still defeat Cholesky, damp more.
absl::StatusOr<Factor> FactorDamped(std::vector<double>* h, int64_t k, double damping) {
  absl::Status last = absl::InvalidArgumentError(
      absl::StrCat("damping is ", damping, ", expected a number from 0 to 1000"));
  double damped = 0.0;
  for (double lambda = std::max(damping, 1e-10); lambda <= 1e3; lambda *= 10.0) {
    for (int64_t i = 0; i < k; ++i) (*h)[i * k + i] += lambda - damped;
    damped = lambda;
    absl::StatusOr<Factor> factor = FactorHessian(*h, k);
    if (factor.ok() || !absl::IsFailedPrecondition(factor.status())) return factor;
    last = factor.status();
  }
  return last;
}

std::vector<double> Diagonal(const std::vector<double>& h, int64_t k) {
  std::vector<double> d(k);
  for (int64_t i = 0; i < k; ++i) d[i] = h[i * k + i];
  return d;
}

}  // namespace

std::vector<int64_t> GarOrder(const std::vector<double>& diagonal, int64_t group) {
  const int64_t k = static_cast<int64_t>(diagonal.size());
  std::vector<int64_t> order(k);
  std::iota(order.begin(), order.end(), 0);
  const auto descending = [&](int64_t a, int64_t b) { return diagonal[a] > diagonal[b]; };
  const int64_t full = k / group;
  std::vector<double> sum(full, 0.0);
  for (int64_t c = 0; c < full; ++c) {
    for (int64_t i = 0; i < group; ++i) sum[c] += diagonal[c * group + i];
    std::stable_sort(order.begin() + c * group, order.begin() + (c + 1) * group, descending);
  }
  std::stable_sort(order.begin() + full * group, order.end(), descending);
  std::vector<int64_t> groups(full);
  std::iota(groups.begin(), groups.end(), 0);
  std::stable_sort(groups.begin(), groups.end(),
                   [&](int64_t a, int64_t b) { return sum[a] > sum[b]; });
  std::vector<int64_t> out;
  out.reserve(k);
  for (int64_t c : groups) {
    out.insert(out.end(), order.begin() + c * group, order.begin() + (c + 1) * group);
  }
  out.insert(out.end(), order.begin() + full * group, order.end());
  return out;
}

std::vector<int64_t> Block8Order(const std::vector<double>& diagonal) {
  const int64_t k = static_cast<int64_t>(diagonal.size());
  const int64_t full = k / 8;
  std::vector<double> sum(full, 0.0);
  for (int64_t i = 0; i < full * 8; ++i) sum[i / 8] += diagonal[i];
  std::vector<int64_t> blocks(full);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::stable_sort(blocks.begin(), blocks.end(),
                   [&](int64_t a, int64_t b) { return sum[a] > sum[b]; });
  std::vector<int64_t> out;
  out.reserve(k);
  for (int64_t b : blocks) {
    for (int64_t i = 0; i < 8; ++i) out.push_back(b * 8 + i);
  }
  for (int64_t i = full * 8; i < k; ++i) out.push_back(i);
  return out;
}

std::vector<int64_t> DiagonalOrder(const std::vector<double>& diagonal) {
  std::vector<int64_t> order(diagonal.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return diagonal[a] > diagonal[b]; });
  return order;
}

absl::StatusOr<OrderedFactor> FactorByDiagonal(std::vector<double> h, int64_t k, double damping) {
  OrderedFactor out;
  const std::vector<double> diagonal = Diagonal(h, k);
  out.order = DiagonalOrder(diagonal);
  h = Permute(std::move(h), out.order);
  const double mean =
      std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(k);
  SA_ASSIGN_OR_RETURN(const Factor factor, FactorDamped(&h, k, damping * mean));
  out.factor = MakeLoopFactor(factor, kFeedbackColumns);
  return out;
}

void PreparedHessianImpl::LoadRow(const float* w, float* out) const {
  std::vector<float> row(k);
  for (int64_t i = 0; i < k; ++i) row[i] = dead[i] != 0 ? 0.0f : w[i];
  if (rotated) kernels::Rotate(row.data(), k, signs.data());
  for (int64_t p = 0; p < k; ++p) out[p] = row[order[p]];
}

LoopFactor MakeLoopFactor(const Factor& factor, int64_t group) {
  const int64_t k = factor.k;
  LoopFactor out;
  out.k = k;
  if (group < k) out.u = ToPanels(factor.u, k);
  out.u_diagonal.resize(k);
  for (int64_t i = 0; i < k; ++i) out.u_diagonal[i] = static_cast<float>(factor.u[i * (k + 1)]);
  for (int64_t begin = 0; begin < k; begin += group) {
    LoopFactor::Group g;
    g.begin = begin;
    g.size = std::min(group, k - begin);
    g.r.resize(g.size * g.size);
    g.u.resize(g.size * g.size);
    g.omega.resize(g.size);
    for (int64_t i = 0; i < g.size; ++i) {
      double omega = 0.0;
      for (int64_t j = 0; j < g.size; ++j) {
        const double value = factor.r[(begin + i) * k + begin + j];
        g.r[i * g.size + j] = static_cast<float>(value);
        g.u[i * g.size + j] = static_cast<float>(factor.u[(begin + i) * k + begin + j]);
        omega += value * value;
      }
      g.omega[i] = static_cast<float>(omega);
    }
    out.groups.push_back(std::move(g));
  }
  return out;
}

absl::StatusOr<std::shared_ptr<const PreparedHessian>> Prepare(const HessianMatrix& h,
                                                               const QuantRecipe& recipe) {
  SA_RETURN_IF_ERROR(CheckHessian(h));
  const int64_t k = h.k;
  auto out = std::make_shared<PreparedHessianImpl>();
  out->method = recipe.method;
  out->order_kind = recipe.order;
  out->k = k;
  out->seed = recipe.seed;
  out->group = recipe.method == QuantMethod::kLat || recipe.method == QuantMethod::kAcc
                   ? kFeedbackColumns
                   : EffectiveGroup(recipe.group, k);
  out->dead.assign(k, 0);
  double sum = 0.0;
  int64_t live = 0;
  for (int64_t i = 0; i < k; ++i) {
    out->dead[i] = h.h[i * k + i] == 0.0;
    live += out->dead[i] == 0;
    sum += h.h[i * k + i];
  }
  // No token was seen: nothing is known about the inputs, which is no reason to drop their weights.
  if (live == 0) out->dead.assign(k, 0);
  const double mean = live > 0 ? sum / static_cast<double>(live) : 1.0;
  out->scale = mean;
  std::vector<double> m(h.h.size());
  for (size_t i = 0; i < m.size(); ++i) m[i] = h.h[i] / mean;
  out->quad = QuadraticForm(m, k);
  if (recipe.method == QuantMethod::kRtn)
    return std::shared_ptr<const PreparedHessian>(std::move(out));

  for (int64_t i = 0; i < k; ++i) {
    if (m[i * k + i] == 0.0) m[i * k + i] = 1.0;
  }
  out->rotated =
      recipe.method == QuantMethod::kShiftAdd && recipe.rotation == QuantRotation::kWht128;
  if (out->rotated) {
    out->signs = RotationSigns(recipe.seed, k);
    RotateSymmetric(&m, k, out->signs.data());
  }
  if (recipe.method == QuantMethod::kAcc) {
    if (recipe.rotation == QuantRotation::kButterfly) out->moments = m;
    SA_ASSIGN_OR_RETURN(OrderedFactor ordered, FactorByDiagonal(std::move(m), k, recipe.damping));
    out->order = std::move(ordered.order);
    out->factor = std::move(ordered.factor);
    return std::shared_ptr<const PreparedHessian>(std::move(out));
  }
  if (recipe.method == QuantMethod::kLat) {
    out->order = Block8Order(Diagonal(m, k));
  } else if (recipe.order == QuantOrder::kGar) {
    out->order = GarOrder(Diagonal(m, k), out->group);
  } else {
    out->order.resize(k);
    std::iota(out->order.begin(), out->order.end(), 0);
  }
  m = Permute(std::move(m), out->order);
  SA_ASSIGN_OR_RETURN(const Factor factor, FactorDamped(&m, k, recipe.damping));
  out->factor = MakeLoopFactor(factor, out->group);
  if (recipe.method == QuantMethod::kShiftAdd && recipe.sweeps > 0) out->factor.h = ToPanels(m, k);
  return std::shared_ptr<const PreparedHessian>(std::move(out));
}

}  // namespace shiftadd::quantize

namespace shiftadd {

absl::StatusOr<std::shared_ptr<const PreparedHessian>> PreparedHessian::Create(
    const HessianMatrix& h, const QuantRecipe& recipe) {
  return quantize::Prepare(h, recipe);
}

}  // namespace shiftadd
