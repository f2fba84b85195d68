#include "worker/serve/packed_model.h"

#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/packed/packed_blob.h"
#include "worker/serve/package_config.h"
#include "worker/serve/packed_executor.h"

namespace shiftadd {
namespace {

// Brings a package into the kernels' form, a blob at a time, so that no second copy of the model is
// ever held.
class Loader {
 public:
  Loader(PackageConfig config, const BlobReader& read, const PackedModelOptions& options)
      : config_(std::move(config)), read_(read), options_(options) {}

  absl::StatusOr<std::unique_ptr<PackedModel>> Load() {
    SA_ASSIGN_OR_RETURN(std::string blob, Read("unquantized", config_.unquantized));
    SA_ASSIGN_OR_RETURN(context_.unquantized,
                        ParseUnquantized(std::move(blob), config_.spec, config_.unquantized));
    context_.exponent_sets = config_.exponent_sets;
    ExecutorWeights weights;
    SA_ASSIGN_OR_RETURN(weights.final_norm, Vector("final_norm"));
    auto layer = config_.layers.begin();
    for (int64_t b = 0; b < config_.spec.blocks; ++b) {
      SA_ASSIGN_OR_RETURN(ExecutorBlock block, LoadBlock(b, &layer));
      weights.blocks.push_back(std::move(block));
    }
    SA_RETURN_IF_ERROR(LoadHead(&weights));
    return std::make_unique<PackedExecutor>(config_.spec, std::move(weights), options_);
  }

 private:
  absl::StatusOr<std::string> Read(const std::string& what, const std::string& digest) {
    absl::StatusOr<std::string> blob = read_(digest);
    if (!blob.ok()) return Annotate(blob.status(), absl::StrCat(what, " (", digest, ")"));
    return blob;
  }

  absl::StatusOr<std::vector<float>> Vector(const std::string& name) {
    const auto it = context_.unquantized->values.find(name);
    if (it == context_.unquantized->values.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(config_.unquantized, ": ", name, " is missing"));
    }
    return it->second;
  }

  absl::Status AddLayer(const PackageLayer& layer, bool has_bias, LinearGroup* group) {
    SA_ASSIGN_OR_RETURN(std::string blob, Read(layer.name, layer.digest));
    SA_ASSIGN_OR_RETURN(PackedLayer packed,
                        ParsePackedLayer(std::move(blob), layer.name, layer.rows, layer.cols,
                                         context_, layer.digest));
    std::vector<float> bias;
    if (has_bias) {
      SA_ASSIGN_OR_RETURN(bias, Vector(layer.name + ".bias"));
    }
    SA_ASSIGN_OR_RETURN(Linear linear, Linear::Create(packed, std::move(bias), options_.isa));
    group->Add(std::move(linear), options_.precision);
    return absl::OkStatus();
  }

  // `layer` stands at the block's first layer and moves behind its last: q, k, v, o, gate, up,
  // down.
  absl::StatusOr<ExecutorBlock> LoadBlock(int64_t b, std::vector<PackageLayer>::iterator* layer) {
    const ArchitectureSpec& spec = config_.spec;
    ExecutorBlock block;
    SA_ASSIGN_OR_RETURN(block.attn_norm, Vector(absl::StrCat("blocks.", b, ".attn_norm")));
    SA_ASSIGN_OR_RETURN(block.mlp_norm, Vector(absl::StrCat("blocks.", b, ".mlp_norm")));
    LinearGroup* const groups[] = {&block.qkv,     &block.qkv,     &block.qkv, &block.o,
                                   &block.gate_up, &block.gate_up, &block.down};
    for (LinearGroup* group : groups) {
      bool bias = spec.mlp_bias;
      if (group == &block.qkv) bias = spec.qkv_bias;
      if (group == &block.o) bias = spec.o_bias;
      SA_RETURN_IF_ERROR(AddLayer(**layer, bias, group));
      ++*layer;
    }
    return block;
  }

  absl::Status LoadHead(ExecutorWeights* weights) {
    SA_ASSIGN_OR_RETURN(std::string blob, Read("head", config_.head));
    SA_ASSIGN_OR_RETURN(PackedHead packed,
                        ParsePackedHead(std::move(blob), config_.spec, config_.head));
    SA_ASSIGN_OR_RETURN(Linear embed, Linear::Create(packed.embed, {}, options_.isa));
    if (packed.head.has_value()) {
      weights->embed = std::make_unique<Linear>(std::move(embed));
      SA_ASSIGN_OR_RETURN(embed, Linear::Create(*packed.head, {}, options_.isa));
    }
    weights->head.Add(std::move(embed), options_.precision);
    return absl::OkStatus();
  }

  PackageConfig config_;
  const BlobReader& read_;
  const PackedModelOptions& options_;
  PackedContext context_;
};

absl::Status CheckSupported(const ArchitectureSpec& spec) {
  if (!spec.gated) return absl::UnimplementedError("the server runs gated MLPs only");
  if (spec.head_dim % 2 != 0) {
    return absl::UnimplementedError(
        absl::StrCat("head_dim ", spec.head_dim, ": rotate-half RoPE needs an even one"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedModel>> PackedModel::Load(const std::string& config_json,
                                                               const BlobReader& read,
                                                               const PackedModelOptions& options) {
  SA_ASSIGN_OR_RETURN(PackageConfig config, ParsePackageConfig(config_json));
  SA_RETURN_IF_ERROR(CheckSupported(config.spec));
  return Loader(std::move(config), read, options).Load();
}

}  // namespace shiftadd
