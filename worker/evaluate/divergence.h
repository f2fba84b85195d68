// Cross entropy and Kullback-Leibler divergence of one predicted token.
#ifndef SHIFTADD_WORKER_EVALUATE_DIVERGENCE_H_
#define SHIFTADD_WORKER_EVALUATE_DIVERGENCE_H_

#include <cstdint>

namespace shiftadd {

// Nats.
struct TokenScores {
  double nll_full = 0;  // -log softmax(full)[label]
  double nll = 0;       // -log softmax(variant)[label]
  double kl = 0;        // sum_i p_i (log p_i - log q_i), p = softmax(full), q = softmax(variant)
};

// Logits [n], 0 <= label < n. `variant` may be null: nll and kl are 0 then. In double, in index
// order: the same result everywhere. Not finite if a logit is not.
TokenScores ScoreToken(const float* full, const float* variant, int64_t n, int32_t label);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_EVALUATE_DIVERGENCE_H_
