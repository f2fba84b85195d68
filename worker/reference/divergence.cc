#include "worker/reference/divergence.h"

#include <algorithm>
#include <cmath>

#include "worker/reference/exp_terms.h"

namespace shiftadd {

TokenReference::TokenReference(const float* full, int64_t n)
    : full_(full), n_(n), top_(std::max_element(full, full + n) - full), terms_(n) {
  const float max = full[top_];
  ExpTerms(full, n, max, terms_.data());
  sum_ = ExpSum(terms_.data(), n);
  log_sum_ = max + std::log(sum_);
}

TokenScores TokenReference::Score(const float* variant, int32_t label) const {
  const TokenReference q(variant, n_);
  TokenScores out;
  out.nll_full = Nll(label);
  out.nll = q.Nll(label);
  out.same_top = top_ == q.top_;
  // sum p (x_p - x_q), less the difference of the normalizers once: p sums to 1.
  double difference = 0;
  for (int64_t i = 0; i < n_; ++i)
    difference += terms_[i] * (static_cast<double>(full_[i]) - variant[i]);
  out.kl = difference / sum_ - (log_sum_ - q.log_sum_);
  return out;
}

}  // namespace shiftadd
