#include "worker/evaluate/divergence.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/reference/exp_terms.h"

namespace shiftadd {
namespace {

// The terms exp(x_i - max) of a softmax, their sum, and log sum_i exp(x_i).
struct Softmax {
  std::vector<double> terms;
  double sum = 0, log_sum = 0;

  Softmax(const float* x, int64_t n) : terms(n) {
    const float max = *std::max_element(x, x + n);
    ExpTerms(x, n, max, terms.data());
    sum = ExpSum(terms.data(), n);
    log_sum = max + std::log(sum);
  }
};

}  // namespace

TokenScores ScoreToken(const float* full, const float* variant, int64_t n, int32_t label) {
  TokenScores out;
  const Softmax p(full, n);
  out.nll_full = p.log_sum - full[label];
  if (variant == nullptr) return out;
  const Softmax q(variant, n);
  out.nll = q.log_sum - variant[label];
  // sum p (x_p - x_q), less the difference of the normalizers once: p sums to 1.
  double difference = 0;
  for (int64_t i = 0; i < n; ++i)
    difference += p.terms[i] * (static_cast<double>(full[i]) - variant[i]);
  out.kl = difference / p.sum - (p.log_sum - q.log_sum);
  return out;
}

}  // namespace shiftadd
