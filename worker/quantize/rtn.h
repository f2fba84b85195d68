// Round to nearest: the baseline without calibration.
#ifndef SHIFTADD_WORKER_QUANTIZE_RTN_H_
#define SHIFTADD_WORKER_QUANTIZE_RTN_H_

#include <cstdint>

#include "absl/status/status.h"
#include "worker/quantize/layer_packing.h"

namespace shiftadd::quantize {

// Rows [begin, end) of w [n, k] on a grid of 2^q equal steps that spans each group's weights and
// has zero as one of its levels (the asymmetric grid with an integer zero point that GPTQ's
// baselines use), stored as bcq/shift with zeta: exponents {0, -1, ..., -(q-1)}, s = step 2^(q-2),
// zeta = the lowest level. Codes are chosen against the stored (fp16) grid. `out` must be allocated
// with zeta.
absl::Status RtnRows(const float* w, int64_t begin, int64_t end, LayerPacking* out);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_RTN_H_
