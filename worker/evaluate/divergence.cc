#include "worker/evaluate/divergence.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace shiftadd {
namespace {

// log sum_i exp(x_i); *sum gets the sum, weights [n], if not null, its terms, exp(x_i - max).
double LogSumExp(const float* x, int64_t n, double* weights, double* sum) {
  const double max = *std::max_element(x, x + n);
  *sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double w = std::exp(x[i] - max);
    if (weights != nullptr) weights[i] = w;
    *sum += w;
  }
  return max + std::log(*sum);
}

}  // namespace

TokenScores ScoreToken(const float* full, const float* variant, int64_t n, int32_t label) {
  TokenScores out;
  double sum = 0;
  if (variant == nullptr) {
    out.nll_full = LogSumExp(full, n, nullptr, &sum) - full[label];
    return out;
  }
  const double log_q = LogSumExp(variant, n, nullptr, &sum);
  std::vector<double> weights(n);
  const double log_p = LogSumExp(full, n, weights.data(), &sum);
  out.nll_full = log_p - full[label];
  out.nll = log_q - variant[label];
  // sum p (x_p - x_q), less the difference of the normalizers once: p sums to 1.
  double difference = 0;
  for (int64_t i = 0; i < n; ++i)
    difference += weights[i] * (static_cast<double>(full[i]) - variant[i]);
  out.kl = difference / sum - (log_p - log_q);
  return out;
}

}  // namespace shiftadd
