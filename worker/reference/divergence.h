// Cross entropy and Kullback-Leibler divergence of one predicted token.
#ifndef SHIFTADD_WORKER_REFERENCE_DIVERGENCE_H_
#define SHIFTADD_WORKER_REFERENCE_DIVERGENCE_H_

#include <cstdint>
#include <vector>

namespace shiftadd {

// Nats.
struct TokenScores {
  double nll_full = 0;    // -log softmax(full)[label]
  double nll = 0;         // -log softmax(variant)[label]
  double kl = 0;          // sum_i p_i (log p_i - log q_i), p = softmax(full), q = softmax(variant)
  bool same_top = false;  // the greatest logit (the first one on a tie) is of the same token
};

// The softmax of the full model's logits [n], against which variants are scored. In double, in
// index order: the same result everywhere. Not finite if a logit is not.
class TokenReference {
 public:
  // `full` must outlive it.
  TokenReference(const float* full, int64_t n);
  double Nll(int32_t label) const { return log_sum_ - full_[label]; }
  // 0 <= label < n.
  TokenScores Score(const float* variant, int32_t label) const;

 private:
  const float* full_;
  int64_t n_;
  int64_t top_;
  std::vector<double> terms_;  // exp(x_i - max)
  double sum_ = 0, log_sum_ = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_REFERENCE_DIVERGENCE_H_
