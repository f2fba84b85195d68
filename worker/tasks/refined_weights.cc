#include "worker/tasks/refined_weights.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/packed/packed_blob.h"
#include "worker/quantize/layer_quantizer.h"

namespace shiftadd {
namespace {

struct RefinedLayer {
  int64_t rows = 0, cols = 0;
  std::vector<LayerRows> shards;
};

class RefinedWeights : public WeightProvider {
 public:
  RefinedWeights(const WeightProvider* original, std::map<std::string, RefinedLayer> layers,
                 PackedContext context,
                 std::function<absl::StatusOr<std::string>(const std::string&)> read)
      : original_(*original),
        layers_(std::move(layers)),
        context_(std::move(context)),
        read_(std::move(read)) {}

  const ArchitectureSpec& spec() const override { return original_.spec(); }
  bool Has(const std::string& name) const override { return original_.Has(name); }

  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override {
    const auto found = layers_.find(name);
    if (found == layers_.end()) return original_.Read(name);
    const RefinedLayer& layer = found->second;
    std::vector<float> weight(static_cast<size_t>(layer.rows * layer.cols));
    for (const LayerRows& shard : layer.shards) {
      SA_ASSIGN_OR_RETURN(std::string blob, read_(shard.digest));
      const int64_t rows = shard.end - shard.begin;
      SA_ASSIGN_OR_RETURN(
          const PackedLayer packed,
          ParsePackedLayer(std::move(blob), name, rows, layer.cols, context_, shard.digest));
      DequantizeLayerRows(packed, 0, rows, weight.data() + shard.begin * layer.cols);
    }
    return weight;
  }

 private:
  const WeightProvider& original_;
  const std::map<std::string, RefinedLayer> layers_;
  const PackedContext context_;
  const std::function<absl::StatusOr<std::string>(const std::string&)> read_;
};

}  // namespace

absl::Status CheckRowsCover(const std::string& layer, int64_t rows,
                            const std::vector<LayerRows>& shards) {
  int64_t next = 0;
  for (const LayerRows& shard : shards) {
    if (shard.begin != next || shard.end <= shard.begin) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", layer, ": found a shard of rows ",
                                                     shard.begin, " to ", shard.end,
                                                     ", expected one from row ", next));
    }
    next = shard.end;
  }
  if (next == rows) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("layer ", layer, ": its shards have ", next, " rows, expected ", rows));
}

absl::StatusOr<std::unique_ptr<WeightProvider>> OpenRefinedWeights(
    const WeightProvider* original, const QuantRecipe& recipe, const std::vector<LayerRows>& shards,
    std::function<absl::StatusOr<std::string>(const std::string& digest)> read) {
  std::map<std::string, RefinedLayer> layers;
  for (const LayerRows& shard : shards) layers[shard.layer].shards.push_back(shard);
  const ArchitectureSpec& spec = original->spec();
  auto signs = std::make_shared<UnquantizedTensors>();
  for (int64_t block = 0; block < spec.blocks; ++block) {
    for (const LinearLayer& layer : BlockLayers(spec, block)) {
      const auto found = layers.find(layer.name);
      if (found == layers.end()) continue;
      found->second.rows = layer.rows;
      found->second.cols = layer.cols;
      SA_RETURN_IF_ERROR(CheckRowsCover(layer.name, layer.rows, found->second.shards));
      if (recipe.rotation != QuantRotation::kWht128 || signs->signs.count(layer.cols) > 0) continue;
      signs->signs[layer.cols] = RotationSigns(recipe.seed, layer.cols);
    }
  }
  for (const auto& [name, layer] : layers) {
    if (layer.rows > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("refined weights: '", name, "' is no layer of the model"));
  }
  PackedContext context;
  context.unquantized = std::move(signs);
  return std::unique_ptr<WeightProvider>(std::make_unique<RefinedWeights>(
      original, std::move(layers), std::move(context), std::move(read)));
}

}  // namespace shiftadd
