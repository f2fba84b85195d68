// How far a packed layer is from the weights it stands for.
#ifndef SHIFTADD_WORKER_QUANTIZE_LAYER_ERROR_H_
#define SHIFTADD_WORKER_QUANTIZE_LAYER_ERROR_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/packed_matrix.h"
#include "worker/quantize/prepared_hessian.h"

namespace shiftadd::quantize {

// With D = W - What (unrotated): ||D||_F^2 and tr(D H D^T), H undamped and divided by the mean of
// its live diagonal.
struct RowErrors {
  double weight = 0.0;
  double output = 0.0;
};

// `packed` null measures W itself (What = 0). Sums run in row order, whatever the threads.
absl::StatusOr<RowErrors> MeasureRows(const PreparedHessianImpl& h, const std::vector<float>& w,
                                      const kernels::PackedMatrix* packed, int64_t n, int threads,
                                      TaskControl* control);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_LAYER_ERROR_H_
