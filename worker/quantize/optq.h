// Method optq: OPTQ (GPTQ, arXiv 2210.17323) on rtn's asymmetric grid, stored as rtn is. The grid
// of a group is fitted to its weights as they are when the loop reaches it, already compensated for
// the groups before.
#ifndef SHIFTADD_WORKER_QUANTIZE_OPTQ_H_
#define SHIFTADD_WORKER_QUANTIZE_OPTQ_H_

#include <vector>

#include "absl/status/status.h"
#include "worker/quantize/layer_packing.h"
#include "worker/quantize/row_chunk.h"

namespace shiftadd::quantize {

// Quantizes the chunk's rows of w [n, k] into every one of `layers`, allocated with zeta.
absl::Status QuantizeOptq(const RowChunk& chunk, const std::vector<float>& w, int threads,
                          TaskControl* control, std::vector<LayerPacking>* layers);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_OPTQ_H_
