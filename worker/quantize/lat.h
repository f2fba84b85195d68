// Method lat: ShiftAddLLM's block-wise form (arXiv 2406.05981), packed as bcq/block8. Scales are
// sums of powers of two, shared by 8 consecutive inputs x R consecutive rows, fitted inside the
// OPTQ loop (arXiv 2210.17323).
#ifndef SHIFTADD_WORKER_QUANTIZE_LAT_H_
#define SHIFTADD_WORKER_QUANTIZE_LAT_H_

#include <vector>

#include "absl/status/status.h"
#include "worker/quantize/layer_packing.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/quantize/prepared_hessian.h"

namespace shiftadd::quantize {

// Rows that share a scale: group / 8, or n / 8 for a whole row (group <= 0); at least 1.
int64_t LatBlockRows(int64_t group, int64_t n);

// Quantizes w [n, k] into every one of `layers` (name, n, k, group, q set).
absl::Status QuantizeLat(const PreparedHessianImpl& h, const std::vector<float>& w,
                         const QuantRecipe& recipe, int threads, TaskControl* control,
                         std::vector<LayerPacking>* layers);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_LAT_H_
