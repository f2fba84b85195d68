#include "worker/packed/packed_blob.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/packed/blob_reader.h"

namespace shiftadd {
namespace {

using kernels::Encoding;
using kernels::Rotation;

constexpr int64_t kMaxGroup = int64_t{1} << 31;  // as kernels::Validate

absl::Status ExpectText(const SafetensorsBlob& blob, const std::string& key,
                        absl::string_view expected) {
  SA_ASSIGN_OR_RETURN(const std::string found, blob.Text(key));
  if (found == expected) return absl::OkStatus();
  return blob.Fault(
      absl::StrCat("metadata '", key, "' is '", found, "', expected '", expected, "'"));
}

// What kernels::Validate says, as a status.
absl::Status CheckMatrix(const SafetensorsBlob& blob, absl::string_view name,
                         const kernels::PackedMatrix& m) {
  if (const std::string wrong = kernels::Validate(m); !wrong.empty()) {
    return blob.Fault(absl::StrCat("layer '", name, "': ", wrong));
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedLayer> ReadRaw(SafetensorsBlob* blob, const std::string& tensor,
                                    PackedLayer layer) {
  SA_ASSIGN_OR_RETURN(std::vector<float> weight, blob->Floats(tensor, {layer.rows, layer.cols}));
  layer.raw = true;
  layer.weight = std::make_shared<const std::vector<float>>(std::move(weight));
  return layer;
}

absl::StatusOr<Encoding> BcqEncoding(const SafetensorsBlob& blob, const std::string& encoding) {
  if (encoding == "bcq/shift") return Encoding::kBcqShift;
  if (encoding == "bcq/free") return Encoding::kBcqFree;
  if (encoding == "bcq/block8") return Encoding::kBcqBlock8;
  return blob.Fault(absl::StrCat("metadata 'encoding' is '", encoding,
                                 "', expected 'bcq/shift', 'bcq/free', 'bcq/block8' or 'raw'"));
}

absl::Status ReadRotation(const SafetensorsBlob& blob, PackedLayer* layer) {
  SA_ASSIGN_OR_RETURN(const std::string rotation, blob.Text("rotation"));
  if (rotation == "none") return absl::OkStatus();
  if (rotation != "wht128") {
    return blob.Fault(
        absl::StrCat("metadata 'rotation' is '", rotation, "', expected 'none' or 'wht128'"));
  }
  const UnquantizedTensors* unquantized = layer->unquantized.get();
  if (unquantized == nullptr || unquantized->signs.count(layer->cols) == 0) {
    return blob.Fault(absl::StrCat("layer '", layer->name,
                                   "' is rotated, but the package has no 'signs.", layer->cols,
                                   "' in its unquantized tensors"));
  }
  layer->matrix.rotation = Rotation::kWht128;
  layer->matrix.signs = unquantized->signs.at(layer->cols).data();
  return absl::OkStatus();
}

absl::Status ReadScales(SafetensorsBlob* blob, const PackedContext& context,
                        kernels::PackedMatrix* m) {
  switch (m->encoding) {
    case Encoding::kBcqShift: {
      SA_ASSIGN_OR_RETURN(m->scale, blob->Halves("scale", {m->n, m->groups()}));
      SA_ASSIGN_OR_RETURN(m->exponents, blob->Tensor<uint8_t>("exponents", DType::kU8,
                                                              {m->n, (m->groups() + 1) / 2}));
      const auto sets = context.exponent_sets.find(m->q);
      m->table =
          sets != context.exponent_sets.end() ? sets->second : kernels::DefaultExponentTable(m->q);
      break;
    }
    case Encoding::kBcqFree: {
      SA_ASSIGN_OR_RETURN(m->alpha, blob->Halves("alpha", {m->n, m->groups(), m->q}));
      break;
    }
    default: {
      SA_ASSIGN_OR_RETURN(m->block_rows, blob->Number("block_rows", 1, kMaxGroup));
      const int64_t row_blocks = (m->n + m->block_rows - 1) / m->block_rows;
      SA_ASSIGN_OR_RETURN(m->alpha, blob->Halves("alpha", {(m->k + 7) / 8, row_blocks, m->q}));
      break;
    }
  }
  if (m->encoding != Encoding::kBcqBlock8 && blob->Has("zeta")) {
    SA_ASSIGN_OR_RETURN(m->zeta, blob->Halves("zeta", {m->n, m->groups()}));
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedLayer> ReadBcq(SafetensorsBlob* blob, const std::string& encoding,
                                    const PackedContext& context, PackedLayer layer) {
  kernels::PackedMatrix& m = layer.matrix;
  SA_ASSIGN_OR_RETURN(m.encoding, BcqEncoding(*blob, encoding));
  m.n = layer.rows;
  m.k = layer.cols;
  SA_ASSIGN_OR_RETURN(m.q, blob->Number("q", 1, kernels::kMaxPlanes));
  SA_ASSIGN_OR_RETURN(m.group, blob->Number("group", 1, kMaxGroup));
  SA_RETURN_IF_ERROR(ReadRotation(*blob, &layer));
  SA_ASSIGN_OR_RETURN(m.planes,
                      blob->Tensor<uint32_t>("planes", DType::kU32, {m.q, m.n, m.plane_words()}));
  SA_RETURN_IF_ERROR(ReadScales(blob, context, &m));
  SA_RETURN_IF_ERROR(CheckMatrix(*blob, layer.name, m));
  layer.bytes = blob->bytes();
  return layer;
}

absl::StatusOr<PackedLayer> ReadEnd(SafetensorsBlob* blob, const std::string& name,
                                    const ArchitectureSpec& spec) {
  PackedLayer layer;
  layer.name = name;
  layer.rows = spec.vocab;
  layer.cols = spec.embed_dim();
  SA_ASSIGN_OR_RETURN(const std::string encoding, blob->Text(name + ".encoding"));
  if (encoding == "raw") return ReadRaw(blob, name, std::move(layer));
  if (encoding != "int8/group") {
    return blob->Fault(absl::StrCat("metadata '", name, ".encoding' is '", encoding,
                                    "', expected 'int8/group' or 'raw'"));
  }
  kernels::PackedMatrix& m = layer.matrix;
  m.encoding = Encoding::kInt8Group;
  m.n = layer.rows;
  m.k = layer.cols;
  SA_ASSIGN_OR_RETURN(m.group, blob->Number(name + ".group", 1, kMaxGroup));
  SA_ASSIGN_OR_RETURN(m.codes, blob->Tensor<int8_t>(name + ".codes", DType::kI8, {m.n, m.k}));
  SA_ASSIGN_OR_RETURN(m.scale, blob->Halves(name + ".scale", {m.n, m.groups()}));
  SA_RETURN_IF_ERROR(CheckMatrix(*blob, name, m));
  layer.bytes = blob->bytes();
  return layer;
}

absl::Status ReadSigns(SafetensorsBlob* blob, UnquantizedTensors* out) {
  constexpr absl::string_view kPrefix = "signs.";
  for (const auto& [name, info] : blob->tensors()) {
    if (!absl::StartsWith(name, kPrefix)) continue;
    int64_t k = 0;
    if (!absl::SimpleAtoi(absl::string_view(name).substr(kPrefix.size()), &k) || k < 1 ||
        k > kMaxGroup || name != absl::StrCat(kPrefix, k)) {
      return blob->Fault(absl::StrCat("tensor '", name, "': expected 'signs.' and an input width"));
    }
    SA_ASSIGN_OR_RETURN(const uint32_t* words,
                        blob->Tensor<uint32_t>(name, DType::kU32, {(k + 31) / 32}));
    out->signs[k].assign(words, words + (k + 31) / 32);
  }
  return absl::OkStatus();
}

}  // namespace

std::map<std::string, int64_t> UnquantizedShapes(const ArchitectureSpec& spec) {
  std::map<std::string, int64_t> sizes;
  for (const PlainTensor& tensor : PlainTensors(spec)) sizes[tensor.name] = tensor.size();
  return sizes;
}

absl::StatusOr<std::shared_ptr<const UnquantizedTensors>> ParseUnquantized(
    std::string bytes, const ArchitectureSpec& spec, absl::string_view label) {
  SA_ASSIGN_OR_RETURN(SafetensorsBlob blob, SafetensorsBlob::Open(std::move(bytes), label));
  auto out = std::make_shared<UnquantizedTensors>();
  for (const auto& [name, size] : UnquantizedShapes(spec)) {
    SA_ASSIGN_OR_RETURN(out->values[name], blob.Floats(name, {size}));
  }
  SA_RETURN_IF_ERROR(ReadSigns(&blob, out.get()));
  SA_RETURN_IF_ERROR(blob.ExpectAllRead());
  return std::shared_ptr<const UnquantizedTensors>(std::move(out));
}

absl::StatusOr<PackedLayer> ParsePackedLayer(std::string bytes, absl::string_view name,
                                             int64_t rows, int64_t cols,
                                             const PackedContext& context,
                                             absl::string_view label) {
  SA_ASSIGN_OR_RETURN(SafetensorsBlob blob, SafetensorsBlob::Open(std::move(bytes), label));
  SA_RETURN_IF_ERROR(ExpectText(blob, "layer", name));
  SA_RETURN_IF_ERROR(ExpectText(blob, "rows", absl::StrCat(rows)));
  SA_RETURN_IF_ERROR(ExpectText(blob, "cols", absl::StrCat(cols)));
  SA_ASSIGN_OR_RETURN(const std::string encoding, blob.Text("encoding"));
  PackedLayer layer;
  layer.name = std::string(name);
  layer.rows = rows;
  layer.cols = cols;
  layer.unquantized = context.unquantized;
  absl::StatusOr<PackedLayer> read = encoding == "raw"
                                         ? ReadRaw(&blob, "weight", std::move(layer))
                                         : ReadBcq(&blob, encoding, context, std::move(layer));
  SA_RETURN_IF_ERROR(read.status());
  SA_RETURN_IF_ERROR(blob.ExpectAllRead());
  return read;
}

absl::StatusOr<PackedHead> ParsePackedHead(std::string bytes, const ArchitectureSpec& spec,
                                           absl::string_view label) {
  SA_ASSIGN_OR_RETURN(SafetensorsBlob blob, SafetensorsBlob::Open(std::move(bytes), label));
  PackedHead out;
  SA_ASSIGN_OR_RETURN(out.embed, ReadEnd(&blob, "embed", spec));
  if (!spec.tied_embeddings) {
    SA_ASSIGN_OR_RETURN(out.head, ReadEnd(&blob, "head", spec));
  }
  SA_RETURN_IF_ERROR(blob.ExpectAllRead());
  return out;
}

void DequantizeLayerRows(const PackedLayer& layer, int64_t begin, int64_t end, float* out) {
  if (layer.raw) {
    std::copy(layer.weight->begin() + begin * layer.cols, layer.weight->begin() + end * layer.cols,
              out);
  } else {
    kernels::DequantizeUnrotated(layer.matrix, begin, end, out);
  }
}

}  // namespace shiftadd
