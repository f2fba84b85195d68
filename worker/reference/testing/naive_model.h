// A decoder-only transformer in float64 and plain loops, written from the definition: what tests
// compare with.
#ifndef SHIFTADD_WORKER_REFERENCE_TESTING_NAIVE_MODEL_H_
#define SHIFTADD_WORKER_REFERENCE_TESTING_NAIVE_MODEL_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "worker/model/model_source.h"

namespace shiftadd::testing {

// May look at and change what a step gives, y[tokens][width]: "blocks.B.attn.q" (and every other
// linear layer), "blocks.B" (the hidden states behind a block).
using NaiveHook = std::function<void(const std::string& name, std::vector<std::vector<double>>* y)>;

// Logits of one sequence, [tokens, vocab].
std::vector<double> NaiveLogits(const WeightProvider& weights, const std::vector<int32_t>& tokens,
                                const NaiveHook& hook = nullptr);

// Summed cross entropy of every next token.
double NaiveLoss(const WeightProvider& weights, const std::vector<int32_t>& tokens,
                 const NaiveHook& hook = nullptr);

// Natural logarithms of the softmax of one row.
std::vector<double> NaiveLogSoftmax(const double* logits, int64_t n);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_REFERENCE_TESTING_NAIVE_MODEL_H_
