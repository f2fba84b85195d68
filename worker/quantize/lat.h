// Method lat: ShiftAddLLM's block-wise form (arXiv 2406.05981), packed as bcq/block8. Scales are
// sums of powers of two, shared by 8 consecutive inputs x R consecutive rows, fitted inside the
// OPTQ loop (arXiv 2210.17323).
#ifndef SHIFTADD_WORKER_QUANTIZE_LAT_H_
#define SHIFTADD_WORKER_QUANTIZE_LAT_H_

#include <vector>

#include "absl/status/status.h"
#include "worker/quantize/layer_packing.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/quantize/row_chunk.h"

namespace shiftadd::quantize {

// Rows of a layer of n rows that share a scale: group / 8, or n / 8 for a whole row (group <= 0);
// 1 to n.
int64_t LatBlockRows(int64_t group, int64_t n);

// Makes room in a layer (name, n, k, group, block_rows, q set).
void PrepareLat(LayerPacking* layer);

// Quantizes the chunk's rows of w [n, k] into every one of `layers`. The chunk begins, and ends
// unless it is the last, at a multiple of block_rows.
absl::Status QuantizeLat(const RowChunk& chunk, const std::vector<float>& w,
                         const QuantRecipe& recipe, int threads, TaskControl* control,
                         std::vector<LayerPacking>* layers);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_LAT_H_
