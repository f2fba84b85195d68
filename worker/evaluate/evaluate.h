// Perplexity and KL against the full-precision model.
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
#include "worker/model/model_source.h"
#include "worker/reference/reference_model.h"

namespace shiftadd {

// Sums over the predicted tokens (length - 1) of one window, nats, accumulated in double.
struct WindowScores {
  double nll_full = 0;
  int64_t tokens = 0;
  std::vector<double> nll;  // by variant
  std::vector<double> kl;   // by variant: KL(full || variant)
};

// Scores every variant against `full` on `count` windows of `length` tokens: tokens is [count,
// length]. Each model runs block by block over all windows, so in memory there are the two heads,
// one block, and the hidden states of two models. The result does not depend on the number of
// threads. `control` may be null; its progress runs from 0 to 1. INVALID_ARGUMENT: tokens outside
// the vocabulary, vocabularies that differ, logits that are not finite.
absl::StatusOr<std::vector<WindowScores>> ScoreWindows(
    const WeightProvider& full, const std::vector<const WeightProvider*>& variants,
    const std::vector<int32_t>& tokens, int64_t count, int64_t length, int threads,
    TaskControl* control);

// Weights of a package, dequantized when read: layers from their blobs, the rest from head and
// unquantized blobs. `layer_digest`: canonical layer name -> blob, for every linear layer of
// `spec`. Blobs are read through `read` on demand and not kept, but for the unquantized one, which
// is read at once. Thread-safe if `read` is. INVALID_ARGUMENT names the blob and what in it is not
// as services/packaging/package_format.h and `spec` say. Shift scales use
// kernels::DefaultExponentTable.
using ReadBlobFn = std::function<absl::StatusOr<std::string>(const std::string& digest)>;
absl::StatusOr<std::unique_ptr<WeightProvider>> OpenDequantized(
    const ArchitectureSpec& spec, std::map<std::string, std::string> layer_digest,
    const std::string& head_digest, const std::string& unquantized_digest, ReadBlobFn read);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_EVALUATE_EVALUATE_H_
