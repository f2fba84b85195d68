// Perplexity and KL against the full-precision model, of whole variants and of single layers.
#ifndef SHIFTADD_WORKER_EVALUATE_EVALUATE_H_
#define SHIFTADD_WORKER_EVALUATE_EVALUATE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/evaluate/variant_model.h"
#include "worker/model/model_source.h"
#include "worker/reference/reference_model.h"

namespace shiftadd {

// Scores of one window: sums over its predicted tokens (length - 1).
struct WindowScores : SequenceScores {
  int64_t tokens = 0;
};

// Scores every variant against `full` on `count` windows of `length` tokens: tokens is [count,
// length]. One model after the other runs over all windows (a variant that does not keep its blocks
// drops them then), and all are scored together: in memory there are the full model as it was made,
// every model's head and hidden states. The result does not depend on the number of `threads`.
// `control` may be null; its progress runs from 0 to 1. INVALID_ARGUMENT: tokens outside the
// vocabulary, vocabularies that differ, logits that are not finite.
absl::StatusOr<std::vector<WindowScores>> ScoreWindows(ReferenceModel* full,
                                                       const std::vector<VariantModel*>& variants,
                                                       const std::vector<int32_t>& tokens,
                                                       int64_t count, int64_t length, int threads,
                                                       TaskControl* control);

// The weights of one layer, quantized in some way: [rows, cols], as WeightProvider::Read gives
// them.
using CandidateReader = std::function<absl::StatusOr<std::vector<float>>()>;
struct LayerToMeasure {
  LinearLayer layer;
  std::vector<CandidateReader> candidates;
};

// KL(full || the model with this one layer replaced) for every candidate of every layer, mean nats
// a predicted token, rounding below 0 clamped to 0. The layers are of one block: what enters it is
// computed once, and every candidate runs from there. `weights` is what `full` was made of.
absl::StatusOr<std::vector<std::vector<double>>> MeasureLayers(
    ReferenceModel* full, const WeightProvider& weights, int64_t block,
    const std::vector<LayerToMeasure>& layers, const std::vector<int32_t>& tokens, int64_t count,
    int64_t length, const VariantOptions& options, TaskControl* control);

// Weights of a package, dequantized when read: layers from their blobs, the rest from head and
// unquantized blobs. `layer_digest`: canonical layer name -> blob, for every linear layer of
// `spec`. Blobs are read through `read` on demand and not kept, but for the unquantized one, which
// is read at once. A tensor is dequantized by `threads` threads. Thread-safe if `read` is.
// INVALID_ARGUMENT names the blob and what in it is not as services/packaging/package_format.h and
// `spec` say. Shift scales use kernels::DefaultExponentTable.
using ReadBlobFn = std::function<absl::StatusOr<std::string>(const std::string& digest)>;
absl::StatusOr<std::unique_ptr<WeightProvider>> OpenDequantized(
    const ArchitectureSpec& spec, std::map<std::string, std::string> layer_digest,
    const std::string& head_digest, const std::string& unquantized_digest, ReadBlobFn read,
    int threads);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_EVALUATE_EVALUATE_H_
