#include "worker/serve/packed_model.h"

#include <atomic>
#include <map>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/packed/packed_blob.h"
#include "worker/serve/package_config.h"
#include "worker/serve/packed_executor.h"

namespace shiftadd {
namespace {

// Brings a package into the kernels' form, a blob a thread at a time, so that no second copy of the
// model is ever held.
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
    SA_RETURN_IF_ERROR(LoadEnds(&weights));
    std::vector<Linear> layers(config_.layers.size());
    SA_RETURN_IF_ERROR(LoadMatrices(&layers, &weights));
    auto layer = layers.begin();
    for (int64_t b = 0; b < config_.spec.blocks; ++b) {
      SA_ASSIGN_OR_RETURN(ExecutorBlock block, LoadBlock(b, &layer));
      weights.blocks.push_back(std::move(block));
    }
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

  // Head and layers, each by one of several threads: it is read, checked and repacked without the
  // others. The head comes first, as it takes longest.
  absl::Status LoadMatrices(std::vector<Linear>* layers, ExecutorWeights* weights) {
    std::vector<bool> has_bias;
    for (int64_t b = 0; b < config_.spec.blocks; ++b) {
      for (const LinearLayer& of : BlockLayers(config_.spec, b))
        has_bias.push_back(HasBias(config_.spec, of.input));
    }
    std::vector<absl::Status> status(layers->size() + 1);
    std::atomic<bool> failed{false};
    const Loop items{static_cast<int64_t>(status.size()), 1};
    ThreadPool pool(options_.threads > 0 ? options_.threads : UsableThreads());
    pool.Run({&items, 1}, [&](int64_t, int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end && !failed; ++i) {
        try {
          status[i] = i == 0 ? LoadHead(weights)
                             : LoadLayer(config_.layers[i - 1], has_bias[i - 1], &(*layers)[i - 1]);
        } catch (const std::bad_alloc&) {
          status[i] = absl::ResourceExhaustedError("out of memory while a package was loaded");
        }
        if (!status[i].ok()) failed = true;
      }
    });
    for (const absl::Status& one : status) SA_RETURN_IF_ERROR(one);
    return absl::OkStatus();
  }

  absl::Status LoadLayer(const PackageLayer& layer, bool has_bias, Linear* out) {
    SA_ASSIGN_OR_RETURN(std::string blob, Read(layer.name, layer.digest));
    SA_ASSIGN_OR_RETURN(PackedLayer packed,
                        ParsePackedLayer(std::move(blob), layer.name, layer.rows, layer.cols,
                                         context_, layer.digest));
    std::vector<float> bias;
    if (has_bias) {
      SA_ASSIGN_OR_RETURN(bias, Vector(layer.name + ".bias"));
    }
    SA_ASSIGN_OR_RETURN(*out, Linear::Create(packed, std::move(bias), options_.isa));
    return absl::OkStatus();
  }

  absl::StatusOr<ExecutorNorm> Norm(const std::string& name) {
    ExecutorNorm norm;
    SA_ASSIGN_OR_RETURN(norm.weight, Vector(name));
    if (config_.spec.norm == NormKind::kLayer) {
      SA_ASSIGN_OR_RETURN(norm.bias, Vector(name + ".bias"));
    }
    return norm;
  }

  absl::StatusOr<LinearGroup> Projection(const std::string& name, int64_t rows, int64_t cols) {
    Linear linear;
    SA_ASSIGN_OR_RETURN(std::vector<float> weight, Vector(name));
    linear.raw = std::make_shared<const std::vector<float>>(std::move(weight));
    linear.rows = rows;
    linear.cols = cols;
    LinearGroup group;
    group.Add(std::move(linear), options_.precision);
    return group;
  }

  absl::Status LoadEnds(ExecutorWeights* weights) {
    const ArchitectureSpec& spec = config_.spec;
    if (spec.has_final_norm) {
      SA_ASSIGN_OR_RETURN(weights->final_norm, Norm("final_norm"));
    }
    if (spec.embed_norm) {
      SA_ASSIGN_OR_RETURN(weights->embed_norm, Norm("embed_norm"));
    }
    if (spec.position == PositionKind::kLearned) {
      SA_ASSIGN_OR_RETURN(weights->positions, Vector("positions"));
    }
    if (spec.embed_width == 0) return absl::OkStatus();
    SA_ASSIGN_OR_RETURN(weights->embed_proj,
                        Projection("embed_proj", spec.hidden, spec.embed_width));
    SA_ASSIGN_OR_RETURN(weights->head_proj, Projection("head_proj", spec.embed_width, spec.hidden));
    return absl::OkStatus();
  }

  // `layer` stands at the block's first layer and moves behind its last, in BlockLayers' order.
  absl::StatusOr<ExecutorBlock> LoadBlock(int64_t b, std::vector<Linear>::iterator* layer) {
    const ArchitectureSpec& spec = config_.spec;
    const std::string prefix = absl::StrCat("blocks.", b, ".");
    ExecutorBlock block;
    SA_ASSIGN_OR_RETURN(block.attn_norm, Norm(prefix + "attn_norm"));
    SA_ASSIGN_OR_RETURN(block.mlp_norm, Norm(prefix + "mlp_norm"));
    if (spec.norm_place == NormPlace::kAround) {
      SA_ASSIGN_OR_RETURN(block.attn_post_norm, Norm(prefix + "attn_post_norm"));
      SA_ASSIGN_OR_RETURN(block.mlp_post_norm, Norm(prefix + "mlp_post_norm"));
    }
    if (spec.qk_norm) {
      SA_ASSIGN_OR_RETURN(block.q_norm, Vector(prefix + "attn.q_norm"));
      SA_ASSIGN_OR_RETURN(block.k_norm, Vector(prefix + "attn.k_norm"));
    }
    const std::map<BlockInput, LinearGroup*> groups = {{BlockInput::kAttn, &block.qkv},
                                                       {BlockInput::kAttnOut, &block.o},
                                                       {BlockInput::kMlp, &block.gate_up},
                                                       {BlockInput::kMlpAct, &block.down}};
    for (const LinearLayer& of : BlockLayers(spec, b)) {
      groups.at(of.input)->Add(std::move(**layer), options_.precision);
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

}  // namespace

absl::StatusOr<std::unique_ptr<PackedModel>> PackedModel::Load(const std::string& config_json,
                                                               const BlobReader& read,
                                                               const PackedModelOptions& options) {
  SA_ASSIGN_OR_RETURN(PackageConfig config, ParsePackageConfig(config_json));
  return Loader(std::move(config), read, options).Load();
}

}  // namespace shiftadd
