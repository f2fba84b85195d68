// Second moments of a layer's input over calibration tokens.
#ifndef SHIFTADD_WORKER_QUANTIZE_HESSIAN_ACCUMULATOR_H_
#define SHIFTADD_WORKER_QUANTIZE_HESSIAN_ACCUMULATOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/quantize/quant_recipe.h"

namespace shiftadd {

// h = sum_t s_t x_t x_t^T / tokens, [k, k] row-major, symmetric.
struct HessianMatrix {
  int64_t k = 0;
  int64_t tokens = 0;
  std::vector<double> h;
};

// The same before the division: sum_t s_t x_t x_t^T, [k, k] row-major, upper triangle (0 below).
struct HessianSum {
  int64_t k = 0;
  int64_t tokens = 0;
  std::vector<double> sum;
};

// Whether all squares are 0: no token was added, or none but zeros and tokens without a weight.
bool IsZero(const HessianSum& sum);
bool IsZero(const HessianMatrix& h);
// total += part. An empty total (k = 0) becomes the part. INVALID_ARGUMENT if the widths differ.
absl::Status AddHessianSum(const HessianSum& part, HessianSum* total);
// Zero tokens give zeros. INVALID_ARGUMENT if a value is not finite.
absl::StatusOr<HessianMatrix> FinishHessian(const HessianSum& sum);

// Sums H over sequences. Add may be called from several threads with sequences in any order; the
// result is the sum in sequence order (each sequence's product in fp32, their sum in float64), so
// the same bytes come out for any number of threads. Sums over parts of the sequences, added by
// AddHessianSum in part order, are deterministic too, but differ in the last bits from one
// accumulator over all sequences: the additions are grouped otherwise.
class HessianAccumulator {
 public:
  virtual ~HessianAccumulator() = default;
  static std::unique_ptr<HessianAccumulator> Create(int64_t k, QuantHessian kind);
  // x [tokens, k]. `weights` [tokens] are the s_t >= 0 of kGuided; null for the other kinds, which
  // know theirs.
  virtual void Add(int64_t sequence, const float* x, int64_t tokens, const float* weights) = 0;
  // INVALID_ARGUMENT if an input or a weight was not finite or a weight negative or missing;
  // FAILED_PRECONDITION if a sequence index is missing or nothing was added. The accumulator is
  // spent.
  virtual absl::StatusOr<HessianSum> FinishSum() = 0;
  absl::StatusOr<HessianMatrix> Finish();
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_QUANTIZE_HESSIAN_ACCUMULATOR_H_
