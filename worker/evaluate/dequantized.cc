// A package's weights as numbers.
#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
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
    if (HasRows(name)) {
      SA_ASSIGN_OR_RETURN(const std::shared_ptr<const PackedLayer> packed, Parsed(name));
      std::vector<float> weight(packed->rows * packed->cols);
      SA_RETURN_IF_ERROR(Dequantize(*packed, 0, packed->rows, weight.data()));
      return weight;
    }
    if (const auto v = context_.unquantized->values.find(name);
        v != context_.unquantized->values.end()) {
      return v->second;
    }
    return absl::NotFoundError(absl::StrCat("the package has no tensor '", name, "'"));
  }

  bool HasRows(const std::string& name) const override {
    return layers_.count(name) > 0 || IsEnd(name);
  }

  // Rows are asked for in their order: the blob stays parsed until its last row has gone.
  absl::Status ReadRows(const std::string& name, int64_t rows, int64_t cols, int64_t begin,
                        int64_t end, float* out) const override {
    if (!HasRows(name)) return WeightProvider::ReadRows(name, rows, cols, begin, end, out);
    SA_ASSIGN_OR_RETURN(const std::shared_ptr<const PackedLayer> packed, Parsed(name));
    if (packed->rows != rows || packed->cols != cols) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": found ", packed->rows,
                                                     " x ", packed->cols, " values, expected ",
                                                     rows, " x ", cols));
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      parsed_ = end < rows ? packed : nullptr;
    }
    return Dequantize(*packed, begin, end, out);
  }

 private:
  bool IsEnd(const std::string& name) const {
    return name == "embed" || (name == "head" && !spec_.tied_embeddings);
  }

  absl::Status Dequantize(const PackedLayer& packed, int64_t begin, int64_t end, float* out) const {
    // A row does not depend on its neighbours: any split gives the same numbers.
    const int64_t pieces = (end - begin + kPieceRows - 1) / kPieceRows;
    return ParallelFor(pieces, threads_, [&](int64_t piece) {
      const int64_t first = begin + piece * kPieceRows;
      DequantizeLayerRows(packed, first, std::min<int64_t>(end, first + kPieceRows),
                          out + (first - begin) * packed.cols);
      return absl::OkStatus();
    });
  }

  absl::StatusOr<std::shared_ptr<const PackedLayer>> Parsed(const std::string& name) const {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (parsed_ != nullptr && parsed_->name == name) return parsed_;
    }
    if (IsEnd(name)) {
      SA_ASSIGN_OR_RETURN(std::string blob, read_(head_digest_));
      SA_ASSIGN_OR_RETURN(PackedHead packed, ParsePackedHead(std::move(blob), spec_, head_digest_));
      return std::make_shared<const PackedLayer>(
          std::move(name == "embed" ? packed.embed : *packed.head));
    }
    const LayerSource& source = layers_.at(name);
    SA_ASSIGN_OR_RETURN(std::string blob, read_(source.digest));
    SA_ASSIGN_OR_RETURN(PackedLayer packed,
                        ParsePackedLayer(std::move(blob), name, source.layer.rows,
                                         source.layer.cols, context_, source.digest));
    return std::make_shared<const PackedLayer>(std::move(packed));
  }

  const ArchitectureSpec spec_;
  const std::map<std::string, LayerSource> layers_;
  const std::string head_digest_;
  const PackedContext context_;
  const ReadBlobFn read_;
  const int threads_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const PackedLayer> parsed_;  // of which rows are being read; guarded
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
