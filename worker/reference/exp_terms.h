// The exponentials of a softmax, the same on every machine: the C library's exp rounds differently
// with and without fused multiply-add, and one bit can move a sampled token.
#ifndef SHIFTADD_WORKER_REFERENCE_EXP_TERMS_H_
#define SHIFTADD_WORKER_REFERENCE_EXP_TERMS_H_

#include <cstdint>

namespace shiftadd {

// terms[i] = exp(x[i] - max) for x [n] with x[i] <= max and max finite, relative error below 1e-12;
// 0 below exp(-700). NaN stays NaN. The sum of the terms in blocks of kExpBlock, in order, is what
// ExpSum gives.
void ExpTerms(const float* x, int64_t n, float max, double* terms);

// The sum over blocks of kExpBlock terms of the sums within the blocks, each in index order.
inline constexpr int64_t kExpBlock = 256;
double ExpSum(const double* terms, int64_t n);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_REFERENCE_EXP_TERMS_H_
