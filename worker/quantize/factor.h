// The triangular factor that the OPTQ loop runs on. Source: OPTQ (arXiv 2210.17323).
#ifndef SHIFTADD_WORKER_QUANTIZE_FACTOR_H_
#define SHIFTADD_WORKER_QUANTIZE_FACTOR_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace shiftadd::quantize {

// H = R R^T with R upper triangular, and U = R^-1, so that U^T U = H^-1. Both [k, k] row-major,
// zero below the diagonal.
struct Factor {
  int64_t k = 0;
  std::vector<double> r;
  std::vector<double> u;
};

// Factors the symmetric `h` [k, k] in float64. FAILED_PRECONDITION if it is not positive definite.
absl::StatusOr<Factor> FactorHessian(const std::vector<double>& h, int64_t k);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_FACTOR_H_
