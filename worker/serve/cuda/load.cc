// A package onto the device, a blob at a time.
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cublas.h"
#include "services/base/status_macros.h"
#include "worker/packed/packed_blob.h"
#include "worker/serve/cuda/executor.h"
#include "worker/serve/package_config.h"

namespace shiftadd {
namespace cuda {
namespace {

// At least what a layer of `bits` planes takes on the device: tiles of 16 rows and 256 inputs, with
// the smallest scales that a package can have.
uint64_t LayerBytes(const PackageLayer& layer) {
  const uint64_t rows = layer.rows, cols = layer.cols, bits = layer.bits;
  if (bits == 0) return rows * cols * 2;
  if (bits < 2 || bits > 4) return rows * cols * bits / 8;
  return (rows + 15) / 16 * ((cols + 255) / 256) * (512 * bits + 64);
}

uint64_t WeightBytes(const PackageConfig& config) {
  const ArchitectureSpec& spec = config.spec;
  uint64_t sum = spec.vocab * spec.embed_dim() * (spec.tied_embeddings ? 1 : 2);
  for (const PackageLayer& layer : config.layers) sum += LayerBytes(layer);
  return sum;
}

// Quantized activations: digits twice, for either kind of tensor core, and scales.
uint64_t ActivationBytes(const ArchitectureSpec& spec, const CudaModelOptions& options) {
  return StepRows(options) * (spec.hidden + spec.q_rows() + spec.intermediate) * 17 / 8;
}

absl::Status CheckMemory(const PackageConfig& config, const CudaModelOptions& options) {
  const ArchitectureSpec& spec = config.spec;
  const uint64_t weights = WeightBytes(config);
  const uint64_t buffers = BufferBytes(spec, options) + ActivationBytes(spec, options);
  const uint64_t pages = CachePages(spec, options);
  const uint64_t cache = pages * ShapeOf(spec).PageHalves(spec.blocks) * sizeof(__half);
  SA_ASSIGN_OR_RETURN(const DeviceMemory memory, AskMemory());
  if (weights + buffers + cache <= memory.free) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the package needs at least ", weights + buffers + cache, " bytes on the device (weights ",
      weights, ", buffers ", buffers, ", keys and values of ", pages * kPageTokens, " tokens ",
      cache, "), which has ", memory.free, " free of ", memory.total));
}

absl::Status CheckSupported(const ArchitectureSpec& spec) {
  if (spec.head_dim % 2 != 0) {
    return absl::UnimplementedError(
        absl::StrCat("head_dim ", spec.head_dim, ": attention on a GPU needs an even one"));
  }
  if (spec.head_dim > kMaxHeadDim) {
    return absl::UnimplementedError(
        absl::StrCat("head_dim ", spec.head_dim, ": attention on a GPU takes up to ", kMaxHeadDim));
  }
  return absl::OkStatus();
}

class Loader {
 public:
  Loader(PackageConfig config, const BlobReader& read, const CudaModelOptions& options,
         Stream stream)
      : config_(std::move(config)), read_(read), options_(options), stream_(std::move(stream)) {}

  absl::StatusOr<DeviceWeights> Load() {
    weights_.activations = std::make_unique<ActivationPool>(StepRows(options_));
    SA_ASSIGN_OR_RETURN(std::string blob, Read("unquantized", config_.unquantized));
    SA_ASSIGN_OR_RETURN(context_.unquantized,
                        ParseUnquantized(std::move(blob), config_.spec, config_.unquantized));
    context_.exponent_sets = config_.exponent_sets;
    SA_RETURN_IF_ERROR(LoadEnds());
    auto layer = config_.layers.begin();
    for (int64_t b = 0; b < config_.spec.blocks; ++b) SA_RETURN_IF_ERROR(LoadBlock(b, &layer));
    SA_RETURN_IF_ERROR(LoadHead());
    return std::move(weights_);
  }

 private:
  absl::StatusOr<std::string> Read(const std::string& what, const std::string& digest) {
    absl::StatusOr<std::string> blob = read_(digest);
    if (!blob.ok()) return Annotate(blob.status(), absl::StrCat(what, " (", digest, ")"));
    return blob;
  }

  absl::StatusOr<const std::vector<float>*> Vector(const std::string& name) {
    const auto it = context_.unquantized->values.find(name);
    if (it == context_.unquantized->values.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(config_.unquantized, ": ", name, " is missing"));
    }
    return &it->second;
  }

  absl::Status UploadVector(const std::string& name, Buffer* out) {
    SA_ASSIGN_OR_RETURN(const std::vector<float>* values, Vector(name));
    SA_RETURN_IF_ERROR(Annotate(
        ToStatus(out->Upload(values->data(), values->size() * sizeof(float), stream_.get())),
        name));
    return stream_.Wait();
  }

  absl::Status UploadNorm(const std::string& name, DeviceNorm* out) {
    SA_RETURN_IF_ERROR(UploadVector(name, &out->weight));
    if (config_.spec.norm != NormKind::kLayer) return absl::OkStatus();
    return UploadVector(name + ".bias", &out->bias);
  }

  // A matrix among the plain tensors.
  absl::Status LoadProjection(const std::string& name, int64_t rows, int64_t cols,
                              LinearGroup* group) {
    SA_ASSIGN_OR_RETURN(const std::vector<float>* values, Vector(name));
    PackedLayer layer;
    layer.name = name;
    layer.rows = rows;
    layer.cols = cols;
    layer.raw = true;
    layer.weight = std::make_shared<const std::vector<float>>(*values);
    return AddLinear(layer, group);
  }

  absl::Status LoadEnds() {
    const ArchitectureSpec& spec = config_.spec;
    if (spec.has_final_norm) SA_RETURN_IF_ERROR(UploadNorm("final_norm", &weights_.final_norm));
    if (spec.embed_norm) SA_RETURN_IF_ERROR(UploadNorm("embed_norm", &weights_.embed_norm));
    if (spec.position == PositionKind::kLearned) {
      SA_RETURN_IF_ERROR(UploadVector("positions", &weights_.positions));
    }
    if (spec.embed_width == 0) return absl::OkStatus();
    SA_RETURN_IF_ERROR(
        LoadProjection("embed_proj", spec.hidden, spec.embed_width, &weights_.embed_proj));
    return LoadProjection("head_proj", spec.embed_width, spec.hidden, &weights_.head_proj);
  }

  absl::Status AddLinear(const PackedLayer& layer, LinearGroup* group) {
    SA_ASSIGN_OR_RETURN(DeviceLinear linear, DeviceLinear::Create(layer, stream_.get()));
    kernels::CudaActivations* activations = nullptr;
    if (!layer.raw) {
      SA_ASSIGN_OR_RETURN(activations, weights_.activations->For(layer, options_.precision));
    }
    group->Add(std::move(linear), activations);
    return absl::OkStatus();
  }

  // The next `count` layers, whose biases follow each other.
  absl::Status LoadGroup(int count, bool has_bias, std::vector<PackageLayer>::iterator* layer,
                         LinearGroup* group) {
    std::vector<float> biases;
    for (int i = 0; i < count; ++i, ++*layer) {
      const PackageLayer& of = **layer;
      SA_ASSIGN_OR_RETURN(std::string blob, Read(of.name, of.digest));
      SA_ASSIGN_OR_RETURN(
          const PackedLayer packed,
          ParsePackedLayer(std::move(blob), of.name, of.rows, of.cols, context_, of.digest));
      SA_RETURN_IF_ERROR(AddLinear(packed, group));
      if (!has_bias) continue;
      SA_ASSIGN_OR_RETURN(const std::vector<float>* bias, Vector(of.name + ".bias"));
      biases.insert(biases.end(), bias->begin(), bias->end());
    }
    return has_bias ? group->SetBias(biases) : absl::OkStatus();
  }

  absl::Status LoadBlock(int64_t b, std::vector<PackageLayer>::iterator* layer) {
    const ArchitectureSpec& spec = config_.spec;
    DeviceBlock block;
    const std::string prefix = absl::StrCat("blocks.", b, ".");
    SA_RETURN_IF_ERROR(UploadNorm(prefix + "attn_norm", &block.attn_norm));
    SA_RETURN_IF_ERROR(UploadNorm(prefix + "mlp_norm", &block.mlp_norm));
    if (spec.norm_place == NormPlace::kAround) {
      SA_RETURN_IF_ERROR(UploadNorm(prefix + "attn_post_norm", &block.attn_post_norm));
      SA_RETURN_IF_ERROR(UploadNorm(prefix + "mlp_post_norm", &block.mlp_post_norm));
    }
    if (spec.qk_norm) {
      SA_RETURN_IF_ERROR(UploadVector(prefix + "attn.q_norm", &block.q_norm));
      SA_RETURN_IF_ERROR(UploadVector(prefix + "attn.k_norm", &block.k_norm));
    }
    SA_RETURN_IF_ERROR(LoadGroup(3, spec.qkv_bias, layer, &block.qkv));
    SA_RETURN_IF_ERROR(LoadGroup(1, spec.o_bias, layer, &block.o));
    SA_RETURN_IF_ERROR(LoadGroup(spec.gated ? 2 : 1, spec.mlp_bias, layer, &block.gate_up));
    SA_RETURN_IF_ERROR(LoadGroup(1, spec.mlp_bias, layer, &block.down));
    weights_.blocks.push_back(std::move(block));
    return absl::OkStatus();
  }

  absl::Status LoadHead() {
    SA_ASSIGN_OR_RETURN(std::string blob, Read("head", config_.head));
    SA_ASSIGN_OR_RETURN(const PackedHead packed,
                        ParsePackedHead(std::move(blob), config_.spec, config_.head));
    if (!packed.head.has_value()) return AddLinear(packed.embed, &weights_.head);
    SA_ASSIGN_OR_RETURN(DeviceLinear embed, DeviceLinear::Create(packed.embed, stream_.get()));
    weights_.embed = std::make_unique<DeviceLinear>(std::move(embed));
    return AddLinear(*packed.head, &weights_.head);
  }

  PackageConfig config_;
  const BlobReader& read_;
  const CudaModelOptions& options_;
  Stream stream_;
  PackedContext context_;
  DeviceWeights weights_;
};

}  // namespace
}  // namespace cuda

absl::StatusOr<std::string> DescribeCudaDevice() { return cuda::DescribeDevice(); }

int CudaVersionOfBuild() { return CUDART_VERSION; }

absl::StatusOr<std::string> DescribeCublas() {
  std::unique_ptr<kernels::cuda::Cublas> cublas;
  SA_RETURN_IF_ERROR(cuda::ToStatus(kernels::cuda::Cublas::Open(&cublas)));
  return cublas->version();
}

absl::StatusOr<std::unique_ptr<PackedModel>> LoadCudaModel(const std::string& config_json,
                                                           const BlobReader& read,
                                                           const CudaModelOptions& options) {
  SA_ASSIGN_OR_RETURN(PackageConfig config, ParsePackageConfig(config_json));
  SA_RETURN_IF_ERROR(cuda::CheckSupported(config.spec));
  SA_ASSIGN_OR_RETURN(std::string device, cuda::DescribeDevice());
  SA_RETURN_IF_ERROR(cuda::CheckMemory(config, options));
  const ArchitectureSpec spec = config.spec;
  SA_ASSIGN_OR_RETURN(cuda::Stream stream, cuda::Stream::Create());
  SA_ASSIGN_OR_RETURN(cuda::DeviceWeights weights,
                      cuda::Loader(std::move(config), read, options, std::move(stream)).Load());
  return cuda::Executor::Create(spec, std::move(weights), options, std::move(device));
}

}  // namespace shiftadd
