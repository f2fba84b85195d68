// The Hessians of one block's layers: of the kind the recipe asks for, or of the next one that the
// numbers allow.
#ifndef SHIFTADD_WORKER_TASKS_BLOCK_HESSIANS_H_
#define SHIFTADD_WORKER_TASKS_BLOCK_HESSIANS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/tasks/job_session.h"

namespace shiftadd {

struct LayerHessians {
  QuantHessian kind = QuantHessian::kPlain;
  std::string note;  // why `kind` is not the recipe's
  // One, or with kGuided one for each chunk of rows. Layers with the same input and kind, but not
  // kGuided, share theirs.
  std::vector<std::shared_ptr<const HessianMatrix>> chunks;
  // The same as sums of `tokens` tokens on the model's device, instead of `chunks`.
  std::vector<std::shared_ptr<InputSum>> sums;
  int64_t tokens = 0;
};

// Why a layer of this kind cannot use its token weights, given those of all parts; empty if it can.
// Every part must hold the kind.
std::string TokenWeightsFault(const std::vector<TokenWeights>& parts, const std::string& kind,
                              int64_t chunks);

struct BlockHessiansOptions {
  int64_t block = 0;
  QuantHessian kind = QuantHessian::kPlain;
  int64_t chunks = 1;                 // of kGuided
  bool on_device = false;             // leave the sums on the model's device, if it has one
  std::vector<bool> wanted;           // by layer, in the order of BlockLayers
  std::vector<TokenWeights> weights;  // kGuided: of this block, one a part
};

// Runs the session's held activations, which enter `block`, through it, so that afterwards those
// that enter block + 1 are held; an input is visited once for all its Hessians. By layer of
// BlockLayers; empty where not wanted. A layer whose token weights are zero for a whole chunk of
// rows or not finite gets unit-RMS tokens, and where a Hessian is not finite, or of unit-RMS tokens
// all of which are too small to be inverted, the layer takes the next simpler kind: `rewind` must
// then hold the activations that enter `block` again.
// INVALID_ARGUMENT if the plain Hessian is not finite either.
absl::StatusOr<std::vector<LayerHessians>> BlockHessians(
    const BlockHessiansOptions& options, JobSession* session, ReferenceModel* model,
    TaskControl* control, const std::function<absl::Status()>& rewind);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_BLOCK_HESSIANS_H_
