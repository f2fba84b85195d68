// Round to nearest: the baseline without calibration.
#ifndef SHIFTADD_WORKER_QUANTIZE_RTN_H_
#define SHIFTADD_WORKER_QUANTIZE_RTN_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/quantize/layer_packing.h"

namespace shiftadd::quantize {

// The grid of one group of one row, as it is stored: weight = zero + m step, 0 <= m < 2^q.
struct RtnGrid {
  uint16_t scale = 0, zeta = 0;  // fp16: s = step 2^(q-2), and the lowest level
  double step = 0.0, zero = 0.0;
};

// The grid of 2^q equal steps that spans `size` weights, `stride` floats apart, and has zero as one
// of its levels (the asymmetric grid with an integer zero point that GPTQ's baselines use). Errors
// name `name` and `row`.
absl::StatusOr<RtnGrid> FitRtnGrid(const std::string& name, int64_t row, const float* w,
                                   int64_t size, int64_t stride, int q);

// The code of step m: plane 0 has the largest exponent.
int RtnCode(int m, int q);

// Stores a grid as bcq/shift with zeta: exponents {0, -1, ..., -(q-1)}. `at`: row * G + group.
void StoreRtnGrid(const RtnGrid& grid, int64_t at, LayerPacking* out);

// Rows [begin, end) of w [n, k], each group on its own grid. Codes are chosen against the stored
// grid. `out` must be allocated with zeta.
absl::Status RtnRows(const float* w, int64_t begin, int64_t end, LayerPacking* out);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_RTN_H_
