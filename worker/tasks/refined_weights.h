// The original model with some layers in the form that REFINING has given them so far.
#ifndef SHIFTADD_WORKER_TASKS_REFINED_WEIGHTS_H_
#define SHIFTADD_WORKER_TASKS_REFINED_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/model_source.h"
#include "worker/quantize/quant_recipe.h"

namespace shiftadd {

// Rows [begin, end) of a layer: a layer blob of their own, by its digest.
struct LayerRows {
  std::string layer;
  int64_t begin = 0, end = 0;
  std::string digest;
};

// A layer's rows in their order. INVALID_ARGUMENT, naming the layer, if there is a gap, an overlap
// or too few of `rows`.
absl::Status CheckRowsCover(const std::string& layer, int64_t rows,
                            const std::vector<LayerRows>& shards);

// Reads layers that `shards` name dequantized, through `read`, and everything else from `original`,
// which must outlive the result. Nothing is kept between reads. Thread-safe if `read` is.
// INVALID_ARGUMENT if a shard is of no layer of the model, or a layer's shards are not all its rows
// in order. `recipe` says which rotation the blobs were made with.
absl::StatusOr<std::unique_ptr<WeightProvider>> OpenRefinedWeights(
    const WeightProvider* original, const QuantRecipe& recipe, const std::vector<LayerRows>& shards,
    std::function<absl::StatusOr<std::string>(const std::string& digest)> read);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_REFINED_WEIGHTS_H_
