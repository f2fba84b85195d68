// A package's weights as numbers.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/evaluate/evaluate.h"
#include "worker/packed/packed_blob.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd {
namespace {

constexpr int64_t kPieceRows = 16;  // that a thread takes at once

struct LayerSource {
  LinearLayer layer;
  std::string digest;
};

class DequantizedPackage : public WeightProvider {
 public:
  DequantizedPackage(const ArchitectureSpec& spec, std::map<std::string, LayerSource> layers,
                     std::string head_digest, PackedContext context, ReadBlobFn read, int threads)
      : spec_(spec),
        layers_(std::move(layers)),
        head_digest_(std::move(head_digest)),
        context_(std::move(context)),
        read_(std::move(read)),
        threads_(threads) {}

  const ArchitectureSpec& spec() const override { return spec_; }

  bool Has(const std::string& name) const override {
    return layers_.count(name) > 0 || IsEnd(name) || context_.unquantized->values.count(name) > 0;
  }

  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override {
    if (const auto layer = layers_.find(name); layer != layers_.end())
      return ReadLayer(layer->second);
    if (IsEnd(name)) return ReadEnd(name);
    if (const auto v = context_.unquantized->values.find(name);
        v != context_.unquantized->values.end()) {
      return v->second;
    }
    return absl::NotFoundError(absl::StrCat("the package has no tensor '", name, "'"));
  }

 private:
  bool IsEnd(const std::string& name) const {
    return name == "embed" || (name == "head" && !spec_.tied_embeddings);
  }

  absl::StatusOr<std::vector<float>> Dequantize(const PackedLayer& packed) const {
    std::vector<float> weight(packed.rows * packed.cols);
    // A row does not depend on its neighbours: any split gives the same numbers.
    const int64_t pieces = (packed.rows + kPieceRows - 1) / kPieceRows;
    SA_RETURN_IF_ERROR(ParallelFor(pieces, threads_, [&](int64_t piece) {
      const int64_t begin = piece * kPieceRows;
      DequantizeLayerRows(packed, begin, std::min<int64_t>(packed.rows, begin + kPieceRows),
                          weight.data() + begin * packed.cols);
      return absl::OkStatus();
    }));
    return weight;
  }

  absl::StatusOr<std::vector<float>> ReadLayer(const LayerSource& source) const {
    const LinearLayer& layer = source.layer;
    SA_ASSIGN_OR_RETURN(std::string blob, read_(source.digest));
    SA_ASSIGN_OR_RETURN(const PackedLayer packed,
                        ParsePackedLayer(std::move(blob), layer.name, layer.rows, layer.cols,
                                         context_, source.digest));
    return Dequantize(packed);
  }

  absl::StatusOr<std::vector<float>> ReadEnd(const std::string& name) const {
    SA_ASSIGN_OR_RETURN(std::string blob, read_(head_digest_));
    SA_ASSIGN_OR_RETURN(const PackedHead packed,
                        ParsePackedHead(std::move(blob), spec_, head_digest_));
    return Dequantize(name == "embed" ? packed.embed : *packed.head);
  }

  const ArchitectureSpec spec_;
  const std::map<std::string, LayerSource> layers_;
  const std::string head_digest_;
  const PackedContext context_;
  const ReadBlobFn read_;
  const int threads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WeightProvider>> OpenDequantized(
    const ArchitectureSpec& spec, std::map<std::string, std::string> layer_digest,
    const std::string& head_digest, const std::string& unquantized_digest, ReadBlobFn read,
    int threads) {
  std::map<std::string, LayerSource> layers;
  for (int64_t block = 0; block < spec.blocks; ++block) {
    for (LinearLayer& layer : BlockLayers(spec, block)) {
      const auto found = layer_digest.find(layer.name);
      if (found == layer_digest.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("the package has no blob for layer '", layer.name, "'"));
      }
      LayerSource source{std::move(layer), std::move(found->second)};
      layer_digest.erase(found);
      layers.emplace(source.layer.name, std::move(source));
    }
  }
  if (!layer_digest.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the package has a blob for '",
                                                   layer_digest.begin()->first,
                                                   "', which is no layer of the model"));
  }
  SA_ASSIGN_OR_RETURN(std::string blob, read(unquantized_digest));
  PackedContext context;
  SA_ASSIGN_OR_RETURN(context.unquantized,
                      ParseUnquantized(std::move(blob), spec, unquantized_digest));
  return std::unique_ptr<WeightProvider>(std::make_unique<DequantizedPackage>(
      spec, std::move(layers), head_digest, std::move(context), std::move(read), threads));
}

}  // namespace shiftadd
