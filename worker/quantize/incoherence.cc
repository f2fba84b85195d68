#include "worker/quantize/incoherence.h"

#include <algorithm>
#include <cmath>

namespace shiftadd::quantize {
namespace {

// Entries of a diagonal, none below 1e-8 of the largest.
std::vector<double> Clamped(std::vector<double> d) {
  const double most = *std::max_element(d.begin(), d.end());
  for (double& x : d) x = std::max(x, most > 0.0 ? 1e-8 * most : 1.0);
  return d;
}

}  // namespace

Incoherence::Incoherence(int64_t n, int64_t k, uint64_t seed, std::vector<double>* h,
                         std::vector<double>* w)
    : n_(n),
      k_(k),
      outputs_(n, seed, 2 * static_cast<uint64_t>(n)),
      inputs_(k, seed, 2 * static_cast<uint64_t>(k) + 1),
      scale_(k) {
  std::vector<double> diagonal(k), norms(k, 0.0);
  for (int64_t i = 0; i < k; ++i) diagonal[i] = (*h)[i * (k + 1)];
  for (int64_t i = 0; i < n * k; ++i) norms[i % k] += (*w)[i] * (*w)[i];
  diagonal = Clamped(std::move(diagonal));
  norms = Clamped(std::move(norms));
  for (int64_t i = 0; i < k; ++i) scale_[i] = std::sqrt(std::sqrt(diagonal[i] / norms[i]));
  for (int64_t i = 0; i < n * k; ++i) (*w)[i] *= scale_[i % k];
  double trace = 0.0;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) (*h)[i * k + j] /= scale_[i] * scale_[j];
    trace += (*h)[i * (k + 1)];
  }
  for (double& x : *h) x *= static_cast<double>(k) / trace;
  for (int64_t i = 0; i < k; ++i) (*h)[i * (k + 1)] += 0.01;
  for (int64_t i = 0; i < k; ++i) inputs_.Apply(h->data() + i * k, 1);
  for (int64_t j = 0; j < k; ++j) inputs_.Apply(h->data() + j, k);
  for (int64_t r = 0; r < n; ++r) inputs_.Apply(w->data() + r * k, 1);
  for (int64_t c = 0; c < k; ++c) outputs_.Apply(w->data() + c, k);
}

void Incoherence::Undo(std::vector<double>* w) const {
  for (int64_t c = 0; c < k_; ++c) outputs_.ApplyTransposed(w->data() + c, k_);
  for (int64_t r = 0; r < n_; ++r) inputs_.ApplyTransposed(w->data() + r * k_, 1);
  for (int64_t i = 0; i < n_ * k_; ++i) (*w)[i] /= scale_[i % k_];
}

}  // namespace shiftadd::quantize
