#include "worker/quantize/layer_blob.h"

#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/quantize/weight_checks.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {
namespace {

using quantize::CheckWeights;

// Tensors with their bytes, kept until the file is written.
class BlobBuilder {
 public:
  template <typename T>
  void Borrow(const std::string& name, DType dtype, std::vector<int64_t> shape, const T* data) {
    int64_t count = 1;
    for (int64_t d : shape) count *= d;
    tensors_.push_back({name, dtype, std::move(shape),
                        absl::string_view(reinterpret_cast<const char*>(data), count * sizeof(T))});
  }
  template <typename T>
  void Own(const std::string& name, DType dtype, std::vector<int64_t> shape, std::vector<T> data) {
    const auto kept = std::make_shared<const std::vector<T>>(std::move(data));
    owned_.push_back(kept);
    Borrow(name, dtype, std::move(shape), kept->data());
  }
  void Meta(const std::string& key, const std::string& value) { metadata_[key] = value; }
  absl::StatusOr<std::string> Write() && {
    return WriteSafetensors(std::move(tensors_), metadata_);
  }

 private:
  std::vector<std::shared_ptr<const void>> owned_;
  std::vector<TensorToWrite> tensors_;
  std::map<std::string, std::string> metadata_;
};

uint32_t Bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Adds w in the smallest plain type that keeps every value (and the sign of zeros).
void AddRaw(const std::string& name, const std::vector<float>& w, std::vector<int64_t> shape,
            BlobBuilder* out) {
  bool half = true, brain = true;
  for (const float x : w) {
    half = half && Bits(kernels::HalfToFloat(kernels::FloatToHalf(x))) == Bits(x);
    brain = brain && (Bits(x) & 0xffffu) == 0;
    if (!half && !brain) break;
  }
  if (!half && !brain) {
    out->Own(name, DType::kF32, std::move(shape), w);
    return;
  }
  std::vector<uint16_t> packed(w.size());
  for (size_t i = 0; i < w.size(); ++i) {
    packed[i] = half ? kernels::FloatToHalf(w[i]) : static_cast<uint16_t>(Bits(w[i]) >> 16);
  }
  out->Own(name, half ? DType::kF16 : DType::kBF16, std::move(shape), std::move(packed));
}

const char* EncodingName(kernels::Encoding encoding) {
  switch (encoding) {
    case kernels::Encoding::kBcqShift:
      return "bcq/shift";
    case kernels::Encoding::kBcqFree:
      return "bcq/free";
    case kernels::Encoding::kBcqBlock8:
      return "bcq/block8";
    case kernels::Encoding::kInt8Group:
      break;
  }
  return "int8/group";
}

absl::Status AddHead(const WeightProvider& weights, const std::string& name, bool int8, int threads,
                     BlobBuilder* out) {
  const int64_t n = weights.spec().vocab, k = weights.spec().embed_dim();
  if (!int8) {
    SA_ASSIGN_OR_RETURN(const std::vector<float> w, weights.Read(name));
    SA_RETURN_IF_ERROR(CheckWeights(name, w, n, k));
    AddRaw(name, w, {n, k}, out);
    out->Meta(name + ".encoding", "raw");
    return absl::OkStatus();
  }
  SA_ASSIGN_OR_RETURN(Int8Matrix m, QuantizeInt8(weights, name, n, k, threads));
  out->Own(name + ".codes", DType::kI8, {n, k}, std::move(m.codes));
  out->Own(name + ".scale", DType::kF16, {n, (k + kInt8GroupSize - 1) / kInt8GroupSize},
           std::move(m.scale));
  out->Meta(name + ".encoding", "int8/group");
  out->Meta(name + ".group", absl::StrCat(kInt8GroupSize));
  return absl::OkStatus();
}

absl::Status AddVector(const WeightProvider& weights, const std::string& name, int64_t size,
                       BlobBuilder* out) {
  SA_ASSIGN_OR_RETURN(std::vector<float> x, weights.Read(name));
  SA_RETURN_IF_ERROR(CheckWeights(name, x, size, 1));
  out->Own(name, DType::kF32, {size}, std::move(x));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> BuildLayerBlob(const std::string& name,
                                           const kernels::PackedMatrix& m) {
  if (const std::string wrong = kernels::Validate(m); !wrong.empty()) {
    return absl::InternalError(absl::StrCat("tensor ", name, ": packed form is wrong: ", wrong));
  }
  BlobBuilder out;
  const int64_t q = m.q;
  out.Meta("layer", name);
  out.Meta("encoding", EncodingName(m.encoding));
  out.Meta("q", absl::StrCat(q));
  out.Meta("rows", absl::StrCat(m.n));
  out.Meta("cols", absl::StrCat(m.k));
  out.Meta("group", absl::StrCat(m.group));
  out.Meta("rotation", m.rotation == kernels::Rotation::kWht128 ? "wht128" : "none");
  out.Borrow("planes", DType::kU32, {q, m.n, m.plane_words()}, m.planes);
  switch (m.encoding) {
    case kernels::Encoding::kBcqShift:
      out.Borrow("scale", DType::kF16, {m.n, m.groups()}, m.scale);
      out.Borrow("exponents", DType::kU8, {m.n, (m.groups() + 1) / 2}, m.exponents);
      break;
    case kernels::Encoding::kBcqFree:
      out.Borrow("alpha", DType::kF16, {m.n, m.groups(), q}, m.alpha);
      break;
    case kernels::Encoding::kBcqBlock8:
      out.Meta("block_rows", absl::StrCat(m.block_rows));
      out.Borrow("alpha", DType::kF16, {(m.k + 7) / 8, (m.n + m.block_rows - 1) / m.block_rows, q},
                 m.alpha);
      break;
    case kernels::Encoding::kInt8Group:
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", name, ": int8/group is for the head only"));
  }
  if (m.zeta != nullptr) out.Borrow("zeta", DType::kF16, {m.n, m.groups()}, m.zeta);
  return std::move(out).Write();
}

absl::StatusOr<std::string> BuildRawLayerBlob(const std::string& name, const std::vector<float>& w,
                                              int64_t n, int64_t k,
                                              const std::map<std::string, std::string>& more) {
  SA_RETURN_IF_ERROR(CheckWeights(name, w, n, k));
  BlobBuilder out;
  out.Meta("layer", name);
  out.Meta("encoding", "raw");
  out.Meta("q", "0");
  out.Meta("rows", absl::StrCat(n));
  out.Meta("cols", absl::StrCat(k));
  out.Meta("rotation", "none");
  for (const auto& [key, value] : more) out.Meta(key, value);
  AddRaw("weight", w, {n, k}, &out);
  return std::move(out).Write();
}

absl::StatusOr<std::string> BuildHeadBlob(const WeightProvider& weights, bool int8, int threads) {
  BlobBuilder out;
  SA_RETURN_IF_ERROR(AddHead(weights, "embed", int8, threads, &out));
  if (!weights.spec().tied_embeddings)
    SA_RETURN_IF_ERROR(AddHead(weights, "head", int8, threads, &out));
  return std::move(out).Write();
}

absl::StatusOr<std::string> BuildUnquantizedBlob(const WeightProvider& weights,
                                                 const QuantRecipe& recipe) {
  const ArchitectureSpec& spec = weights.spec();
  BlobBuilder out;
  std::set<int64_t> widths;
  for (const PlainTensor& tensor : PlainTensors(spec)) {
    SA_RETURN_IF_ERROR(AddVector(weights, tensor.name, tensor.size(), &out));
  }
  for (const LinearLayer& layer : BlockLayers(spec, 0)) widths.insert(layer.cols);
  if (recipe.method == QuantMethod::kShiftAdd && recipe.rotation == QuantRotation::kWht128) {
    for (const int64_t k : widths) {
      out.Own(absl::StrCat("signs.", k), DType::kU32, {(k + 31) / 32},
              RotationSigns(recipe.seed, k));
    }
  }
  return std::move(out).Write();
}

}  // namespace shiftadd
