// A decoder-only transformer in float64 and plain loops, written from the definition: what tests
// compare with.
#ifndef SHIFTADD_WORKER_REFERENCE_TESTING_NAIVE_MODEL_H_
#define SHIFTADD_WORKER_REFERENCE_TESTING_NAIVE_MODEL_H_

#include <cstdint>
#include <vector>

#include "worker/model/model_source.h"

namespace shiftadd::testing {

// Logits of one sequence, [tokens, vocab].
std::vector<double> NaiveLogits(const WeightProvider& weights, const std::vector<int32_t>& tokens);

// Natural logarithms of the softmax of one row.
std::vector<double> NaiveLogSoftmax(const double* logits, int64_t n);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_REFERENCE_TESTING_NAIVE_MODEL_H_
