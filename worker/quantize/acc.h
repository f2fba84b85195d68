// Method acc: ShiftAddLLM's column-wise form (arXiv 2406.05981). Binary codes and additive
// power-of-two scales are fitted to groups of rows of one input column at a time, inside the OPTQ
// loop (2210.17323), columns by descending diagonal of H.
//
// The released code also makes weights incoherent first and undoes it afterwards (QuIP,
// 2307.13304), which no longer leaves binary codes: rotation kButterfly does as it does. Either way
// the result is dense weights, a simulation: no kernel reads scales along columns.
#ifndef SHIFTADD_WORKER_QUANTIZE_ACC_H_
#define SHIFTADD_WORKER_QUANTIZE_ACC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/quantize/row_chunk.h"

namespace shiftadd::quantize {

// A layer quantized to weights, not codes.
struct SimulatedLayer {
  std::string name;
  int64_t n = 0, k = 0;
  int q = 0;
  int64_t group_rows = 0;      // rows of a column that share scales
  std::vector<float> weights;  // [n, k], every one an fp16 number

  // What planes and fp16 scales [k, ceil(n / group_rows), q] would take.
  uint64_t StoredBytes() const;
};

// Rows of a layer of n rows that share scales: group, or n (group <= 0), at most n.
int64_t AccGroupRows(int64_t group, int64_t n);

// Quantizes the chunk's rows of w [n, k] into every one of `layers` (all set but weights, which
// have their size). The chunk begins, and ends unless it is the last, at a multiple of group_rows;
// with rotation it is the whole layer. INVALID_ARGUMENT naming the tensor if a weight leaves fp16.
absl::Status QuantizeAcc(const RowChunk& chunk, const std::vector<float>& w,
                         const QuantRecipe& recipe, int threads, TaskControl* control,
                         std::vector<SimulatedLayer>* layers);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_ACC_H_
