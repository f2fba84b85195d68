// One draw from a softmax.
#ifndef SHIFTADD_WORKER_REFERENCE_DRAW_H_
#define SHIFTADD_WORKER_REFERENCE_DRAW_H_

#include <cstdint>

namespace shiftadd {

// The index i with CDF(i - 1) <= u < CDF(i), CDF the cumulative softmax (temperature 1) of logits
// [n] in index order, n >= 1, u in [0, 1). In double, in one fixed order. -1 if a logit is NaN or
// +infinity, or if all are -infinity.
int64_t DrawFromSoftmax(const float* logits, int64_t n, double u);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_REFERENCE_DRAW_H_
