#include "worker/quantize/weight_checks.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace shiftadd::quantize {

absl::Status CheckWeights(const std::string& name, const std::vector<float>& w, int64_t n,
                          int64_t k) {
  if (n < 1 || k < 1 || static_cast<int64_t>(w.size()) / k != n ||
      static_cast<int64_t>(w.size()) % k != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": found ", w.size(), " values, expected ", n, " x ", k));
  }
  for (int64_t i = 0; i < n * k; ++i) {
    if (std::isfinite(w[i])) continue;
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": element ", i / k, ",", i % k,
                                                   " is ", w[i], ", expected a finite number"));
  }
  return absl::OkStatus();
}

float MaxAbs(const float* x, int64_t count) {
  float max = 0.0f;
  for (int64_t i = 0; i < count; ++i) max = std::fabs(x[i]) > max ? std::fabs(x[i]) : max;
  return max;
}

}  // namespace shiftadd::quantize
