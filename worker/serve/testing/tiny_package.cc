#include "worker/serve/testing/tiny_package.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/packed_matrix.h"
#include "kernels/packing.h"
#include "services/base/digest.h"
#include "services/base/or_die.h"
#include "services/base/status_macros.h"
#include "services/blob/blob_store.h"
#include "services/packaging/package_format.h"
#include "worker/model/model_source.h"
#include "worker/packed/packed_blob.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;

template <typename T>
absl::string_view View(const std::vector<T>& v) {
  return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T)};
}

class Builder {
 public:
  explicit Builder(const TinyPackageOptions& options)
      : options_(options), random_(options.model.seed) {}

  TinyPackage Build() {
    package_.spec = options_.spec ? *options_.spec : TinyLlamaSpec(options_.model);
    AddTokenizer();
    AddUnquantized();
    AddLayers();
    AddHead();
    package_.config["format"] = {{"major", kPackageFormatMajor}, {"minor", kPackageFormatMinor}};
    package_.config["architecture"] = ToJson(package_.spec);
    for (int q = 1; q <= kernels::kMaxPlanes; ++q) AddExponentSets(q);
    return std::move(package_);
  }

 private:
  float Normal(double deviation) {
    return static_cast<float>(std::normal_distribution<double>(0, deviation)(random_));
  }

  void AddTokenizer() {
    const auto dir = std::filesystem::temp_directory_path() /
                     absl::StrCat("tiny_package_", ::getpid(), "_", random_());
    const absl::Status written = WriteTinyLlamaDirectory(dir.string(), options_.model);
    OrDie(written, "tiny package");
    package_.tokenizer_json = OrDie(ModelSource::Open(dir.string()))->tokenizer_json();
    std::filesystem::remove_all(dir);
    package_.config["tokenizer"] = package_.Put(package_.tokenizer_json);
  }

  void AddUnquantized() {
    std::map<std::string, std::vector<uint32_t>> signs;
    for (const int64_t k :
         {package_.spec.hidden, package_.spec.q_rows(), package_.spec.intermediate}) {
      std::vector<uint32_t> words((k + 31) / 32);
      for (int64_t i = 0; i < k; ++i) words[i / 32] |= (random_() & 1u) << (i % 32);
      if (options_.rotated) signs.emplace(absl::StrCat("signs.", k), std::move(words));
    }
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, size] : UnquantizedShapes(package_.spec)) {
      const bool norm = absl::EndsWith(name, "norm");
      std::vector<float>& values = package_.weights[name];
      for (int64_t i = 0; i < size; ++i) values.push_back(norm ? 1 + Normal(0.2) : Normal(0.1));
      tensors.push_back({name, DType::kF32, {size}, View(values)});
    }
    for (const auto& [name, words] : signs) {
      tensors.push_back({name, DType::kU32, {static_cast<int64_t>(words.size())}, View(words)});
    }
    const std::string blob = OrDie(WriteSafetensors(std::move(tensors), {}));
    package_.config["unquantized"] = package_.Put(blob);
    unquantized_ = OrDie(ParseUnquantized(blob, package_.spec, "unquantized"));
  }

  std::string RawLayer(const LinearLayer& layer) {
    std::vector<float> w(layer.rows * layer.cols);
    for (float& x : w) x = Normal(0.7 / std::sqrt(static_cast<double>(layer.cols)));
    return OrDie(WriteSafetensors({{"weight", DType::kF32, {layer.rows, layer.cols}, View(w)}},
                                  {{"layer", layer.name},
                                   {"encoding", "raw"},
                                   {"rows", absl::StrCat(layer.rows)},
                                   {"cols", absl::StrCat(layer.cols)}}));
  }

  std::string PackedLayerBlob(const LinearLayer& layer, int q) {
    const int64_t n = layer.rows, k = layer.cols;
    const int64_t groups = (k + options_.group - 1) / options_.group;
    std::vector<uint8_t> codes(n * k);
    for (uint8_t& c : codes) c = static_cast<uint8_t>(random_() & ((1u << q) - 1));
    std::vector<uint32_t> planes(q * n * ((k + 31) / 32));
    kernels::PackPlanes(codes.data(), n, k, q, planes.data());
    const auto half = [&](double base) {
      return kernels::FloatToHalf(static_cast<float>(base * (0.5 + (random_() % 1000) / 1000.0)));
    };
    const double unit = 0.6 / std::sqrt(static_cast<double>(k));
    std::vector<uint16_t> scale(n * groups), alpha(n * groups * q), zeta(n * groups);
    std::vector<uint8_t> index(n * groups), exponents(n * ((groups + 1) / 2));
    for (uint16_t& s : scale) s = half(unit);
    for (uint16_t& a : alpha) a = half(unit / q);
    const kernels::ExponentTable table = kernels::DefaultExponentTable(q);
    for (uint8_t& i : index) i = static_cast<uint8_t>(random_() % table.count);
    for (size_t i = 0; i < zeta.size(); ++i) {
      // About the middle of the group's weights, as a fitted offset would be.
      double sum = 0;
      for (int p = 0; p < q; ++p) {
        sum += options_.free_scales
                   ? kernels::HalfToFloat(alpha[i * q + p])
                   : std::ldexp(kernels::HalfToFloat(scale[i]), table.exponents[index[i]][p]);
      }
      zeta[i] = kernels::FloatToHalf(static_cast<float>(-sum) + Normal(unit / 4));
    }
    kernels::PackExponents(index.data(), n, groups, exponents.data());
    std::vector<TensorToWrite> tensors = {
        {"planes", DType::kU32, {q, n, (k + 31) / 32}, View(planes)}};
    if (options_.free_scales) {
      tensors.push_back({"alpha", DType::kF16, {n, groups, q}, View(alpha)});
    } else {
      tensors.push_back({"scale", DType::kF16, {n, groups}, View(scale)});
      tensors.push_back({"exponents", DType::kU8, {n, (groups + 1) / 2}, View(exponents)});
    }
    if (options_.zeta) tensors.push_back({"zeta", DType::kF16, {n, groups}, View(zeta)});
    return OrDie(WriteSafetensors(std::move(tensors),
                                  {{"layer", layer.name},
                                   {"encoding", options_.free_scales ? "bcq/free" : "bcq/shift"},
                                   {"q", absl::StrCat(q)},
                                   {"rows", absl::StrCat(n)},
                                   {"cols", absl::StrCat(k)},
                                   {"group", absl::StrCat(options_.group)},
                                   {"rotation", options_.rotated ? "wht128" : "none"}}));
  }

  void AddLayers() {
    PackedContext context;
    context.unquantized = unquantized_;
    size_t turn = 0;
    for (int64_t b = 0; b < package_.spec.blocks; ++b) {
      for (const LinearLayer& layer : BlockLayers(package_.spec, b)) {
        const int q = options_.bits[turn++ % options_.bits.size()];
        const std::string blob = q == 0 ? RawLayer(layer) : PackedLayerBlob(layer, q);
        package_.config["layers"].push_back({{"name", layer.name},
                                             {"bits", q},
                                             {"rows", layer.rows},
                                             {"cols", layer.cols},
                                             {"digest", package_.Put(blob)}});
        AddWeights(
            OrDie(ParsePackedLayer(blob, layer.name, layer.rows, layer.cols, context, layer.name)));
      }
    }
  }

  void AddWeights(const PackedLayer& layer) {
    std::vector<float>& w = package_.weights[layer.name];
    w.resize(layer.rows * layer.cols);
    DequantizeLayerRows(layer, 0, layer.rows, w.data());
  }

  void AddHead() {
    const int64_t n = package_.spec.vocab, k = package_.spec.embed_dim(), groups = (k + 127) / 128;
    std::vector<std::vector<int8_t>> codes;
    std::vector<std::vector<uint16_t>> scales;
    std::vector<std::vector<float>> raws;
    std::vector<TensorToWrite> tensors;
    std::map<std::string, std::string> metadata;
    std::vector<std::string> names = {"embed"};
    if (!package_.spec.tied_embeddings) names.push_back("head");
    codes.reserve(2), scales.reserve(2), raws.reserve(2);
    for (const std::string& name : names) {
      metadata[name + ".encoding"] = options_.raw_head ? "raw" : "int8/group";
      if (options_.raw_head) {
        raws.emplace_back(n * k);
        for (float& x : raws.back()) x = Normal(0.3);
        tensors.push_back({name, DType::kF32, {n, k}, View(raws.back())});
        continue;
      }
      metadata[name + ".group"] = "128";
      codes.emplace_back(n * k);
      for (int8_t& c : codes.back())
        c = static_cast<int8_t>(static_cast<int>(random_() % 255) - 127);
      scales.emplace_back(n * groups);
      for (uint16_t& s : scales.back()) {
        s = kernels::FloatToHalf(static_cast<float>(0.002 + (random_() % 1000) * 1e-6));
      }
      tensors.push_back({name + ".codes", DType::kI8, {n, k}, View(codes.back())});
      tensors.push_back({name + ".scale", DType::kF16, {n, groups}, View(scales.back())});
    }
    const std::string blob = OrDie(WriteSafetensors(std::move(tensors), metadata));
    package_.config["head"] = package_.Put(blob);
    const PackedHead head = OrDie(ParsePackedHead(blob, package_.spec, "head"));
    AddWeights(head.embed);
    if (head.head.has_value()) AddWeights(*head.head);
  }

  void AddExponentSets(int q) {
    const kernels::ExponentTable table = kernels::DefaultExponentTable(q);
    json sets = json::array();
    for (int s = 0; s < table.count; ++s) {
      json set = json::array();
      for (int i = 0; i < q; ++i) set.push_back(table.exponents[s][i]);
      sets.push_back(set);
    }
    package_.config["exponent_sets"][absl::StrCat(q)] = sets;
  }

  const TinyPackageOptions options_;
  std::mt19937 random_;
  TinyPackage package_;
  std::shared_ptr<const UnquantizedTensors> unquantized_;
};

json Descriptor(const char* media_type, const std::string& bytes) {
  return {{"mediaType", media_type}, {"digest", Sha256Digest(bytes)}, {"size", bytes.size()}};
}

}  // namespace

BlobReader TinyPackage::Reader() const {
  return [this](const std::string& digest) -> absl::StatusOr<std::string> {
    const auto it = blobs.find(digest);
    if (it == blobs.end()) return absl::NotFoundError(digest + ": no such blob");
    return it->second;
  };
}

std::string TinyPackage::Put(const std::string& blob) {
  std::string digest = Sha256Digest(blob);
  blobs[digest] = blob;
  return digest;
}

absl::StatusOr<std::string> TinyPackage::WriteLayout(const std::string& dir,
                                                     const std::string& reference) const {
  SA_ASSIGN_OR_RETURN(const std::unique_ptr<BlobStore> store, OpenOciLayout(dir));
  json manifest = {{"schemaVersion", 2},
                   {"mediaType", kManifestMediaType},
                   {"artifactType", kPackageArtifactType},
                   {"config", Descriptor(kConfigMediaType, config_json())},
                   {"layers", json::array()}};
  SA_RETURN_IF_ERROR(store->Put(config_json()).status());
  for (const auto& [digest, blob] : blobs) {
    SA_RETURN_IF_ERROR(store->Put(blob).status());
    manifest["layers"].push_back(Descriptor(kWeightsMediaType, blob));
  }
  SA_ASSIGN_OR_RETURN(const std::string digest, store->Put(manifest.dump()));
  SA_RETURN_IF_ERROR(store->PutTag(reference, Descriptor(kManifestMediaType, manifest.dump())));
  return digest;
}

TinyPackage MakeRawPackage(const ModelSource& source) {
  TinyPackage package;
  const ArchitectureSpec& spec = package.spec = source.spec();
  const auto read = [&](const std::string& name) -> const std::vector<float>& {
    return package.weights[name] = OrDie(source.Read(name));
  };
  package.tokenizer_json = source.tokenizer_json();
  package.config["tokenizer"] = package.Put(package.tokenizer_json);
  std::vector<TensorToWrite> plain;
  for (const PlainTensor& t : PlainTensors(spec)) {
    plain.push_back({t.name, DType::kF32, {t.size()}, View(read(t.name))});
  }
  package.config["unquantized"] = package.Put(OrDie(WriteSafetensors(std::move(plain), {})));
  package.config["layers"] = json::array();
  for (int64_t b = 0; b < spec.blocks; ++b) {
    for (const LinearLayer& layer : BlockLayers(spec, b)) {
      const std::string blob = OrDie(WriteSafetensors(
          {{"weight", DType::kF32, {layer.rows, layer.cols}, View(read(layer.name))}},
          {{"layer", layer.name},
           {"encoding", "raw"},
           {"rows", absl::StrCat(layer.rows)},
           {"cols", absl::StrCat(layer.cols)}}));
      package.config["layers"].push_back({{"name", layer.name},
                                          {"bits", 0},
                                          {"rows", layer.rows},
                                          {"cols", layer.cols},
                                          {"digest", package.Put(blob)}});
    }
  }
  std::vector<TensorToWrite> ends;
  std::map<std::string, std::string> metadata;
  for (const char* name : {"embed", "head"}) {
    if (spec.tied_embeddings && std::string(name) == "head") continue;
    ends.push_back({name, DType::kF32, {spec.vocab, spec.embed_dim()}, View(read(name))});
    metadata[absl::StrCat(name, ".encoding")] = "raw";
  }
  package.config["head"] = package.Put(OrDie(WriteSafetensors(std::move(ends), metadata)));
  package.config["format"] = {{"major", kPackageFormatMajor}, {"minor", kPackageFormatMinor}};
  package.config["architecture"] = ToJson(spec);
  return package;
}

TinyPackage MakeTinyPackage(const TinyPackageOptions& options) { return Builder(options).Build(); }

}  // namespace shiftadd::testing
