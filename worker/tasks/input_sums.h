// The sums of one input's second moments over one calibration part: REFINING's share of a Hessian.
#ifndef SHIFTADD_WORKER_TASKS_INPUT_SUMS_H_
#define SHIFTADD_WORKER_TASKS_INPUT_SUMS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/quantize/quant_recipe.h"
#include "worker/reference/reference_model.h"
#include "worker/tasks/job_session.h"
#include "worker/tasks/partial_hessian.h"

namespace shiftadd {

struct LayerSums {
  std::string layer;  // empty: of all layers that read the input
  PartialHessianSums sums;
};

struct InputSumsOptions {
  int64_t block = 0;
  BlockInput input = BlockInput::kAttn;
  std::vector<LinearLayer> layers;  // that read it; at least one
  QuantHessian kind = QuantHessian::kPlain;
  int64_t chunks = 1;                 // of kGuided
  std::vector<TokenWeights> weights;  // kGuided: of every part, each with every layer's kind
  size_t part = 0;                    // kGuided: the part that `hidden` is of
};

// Runs `hidden`, which enters the block, as far as the input. kGuided gives a sum for each layer,
// of unit-RMS tokens where the layer's weights are of no use in any part (PROFILING has come to the
// same answer, and has said so in its report); the other kinds give one for all layers. Where no
// unit-RMS token has a weight, each being zero or too small to be inverted, the sum is plain unless
// that is zero too. Sequences
// are added in their order: the same bytes for any number of threads. INVALID_ARGUMENT if a number
// is not finite.
absl::StatusOr<std::vector<LayerSums>> SumInput(const InputSumsOptions& options,
                                                const HiddenStates& hidden, ReferenceModel* model,
                                                TaskControl* control);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_INPUT_SUMS_H_
