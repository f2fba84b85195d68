// Method shiftadd: rotated weights through the group loop, packed as bcq/shift or bcq/free.
#ifndef SHIFTADD_WORKER_QUANTIZE_SHIFTADD_METHOD_H_
#define SHIFTADD_WORKER_QUANTIZE_SHIFTADD_METHOD_H_

#include <vector>

#include "absl/status/status.h"
#include "worker/quantize/layer_packing.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/quantize/prepared_hessian.h"

namespace shiftadd::quantize {

// Quantizes w [n, k] into every one of `layers` (name, n, k, group, q set), which share w and h.
absl::Status QuantizeShiftAdd(const PreparedHessianImpl& h, const std::vector<float>& w,
                              const QuantRecipe& recipe, int threads, TaskControl* control,
                              std::vector<LayerPacking>* layers);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_SHIFTADD_METHOD_H_
