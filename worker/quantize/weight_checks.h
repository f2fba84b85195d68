// What every quantizer asks of a weight matrix first.
#ifndef SHIFTADD_WORKER_QUANTIZE_WEIGHT_CHECKS_H_
#define SHIFTADD_WORKER_QUANTIZE_WEIGHT_CHECKS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace shiftadd::quantize {

// INVALID_ARGUMENT, naming the tensor, unless w is [n, k], not empty and finite (naming the
// element).
absl::Status CheckWeights(const std::string& name, const std::vector<float>& w, int64_t n,
                          int64_t k);

// The largest |x[i]|; 0 for none.
float MaxAbs(const float* x, int64_t count);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_WEIGHT_CHECKS_H_
