// How far a quantized layer is from the weights it stands for, and how hard it is to quantize.
#ifndef SHIFTADD_WORKER_QUANTIZE_LAYER_ERROR_H_
#define SHIFTADD_WORKER_QUANTIZE_LAYER_ERROR_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/quantize/prepared_hessian.h"
#include "worker/quantize/row_chunk.h"

namespace shiftadd::quantize {

// Writes rows [begin, end) of What, unrotated, [end - begin, k].
using RowReader = std::function<void(int64_t begin, int64_t end, float* out)>;

// The error of What against w [n, k] (weight and output of the result), or, if `what` is null, the
// norms of w itself (weight_norm and output_norm). Sums run in row order, whatever the threads.
absl::StatusOr<ErrorSums> MeasureRows(const std::vector<RowChunk>& chunks,
                                      const std::vector<float>& w, const RowReader* what,
                                      int threads, TaskControl* control);

// Candidate::paper_criterion of w [n, k].
absl::StatusOr<double> PaperCriterion(const std::vector<RowChunk>& chunks,
                                      const std::vector<float>& w, int threads,
                                      TaskControl* control);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_LAYER_ERROR_H_
