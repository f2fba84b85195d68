// Method shiftadd: rotated weights through the group loop, packed as bcq/shift or bcq/free.
#ifndef SHIFTADD_WORKER_QUANTIZE_SHIFTADD_METHOD_H_
#define SHIFTADD_WORKER_QUANTIZE_SHIFTADD_METHOD_H_

#include <vector>

#include "absl/status/status.h"
#include "worker/quantize/layer_packing.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/quantize/prepared_hessian.h"
#include "worker/quantize/row_chunk.h"

namespace shiftadd::quantize {

// Makes room in a layer (name, n, k, group, q set).
void PrepareShiftAdd(const PreparedHessianImpl& h, const QuantRecipe& recipe, LayerPacking* layer);

// Quantizes the chunk's rows of w [n, k] into every one of `layers`, prepared by
// PrepareShiftAdd. Adds to `seconds`.
absl::Status QuantizeShiftAdd(const RowChunk& chunk, const std::vector<float>& w,
                              const QuantRecipe& recipe, int threads, TaskControl* control,
                              StageSeconds* seconds, std::vector<LayerPacking>* layers);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_SHIFTADD_METHOD_H_
