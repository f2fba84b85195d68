#include "worker/export/package_weights.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/tensor/json_text.h"

namespace shiftadd {
namespace {

constexpr int64_t kChunkNumbers = int64_t{1} << 22;

// The canonical row that row `row` of the interleaved order holds: rows (j, j + half) of each head
// stand at (2j, 2j + 1).
int64_t CanonicalRow(int64_t row, int64_t head_rows) {
  const int64_t head = row / head_rows, i = row % head_rows;
  return head * head_rows + i / 2 + (i % 2) * (head_rows / 2);
}

std::vector<float> Interleave(const std::vector<float>& values, int64_t heads) {
  const int64_t head_rows = static_cast<int64_t>(values.size()) / heads;
  std::vector<float> out(values.size());
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = values[CanonicalRow(static_cast<int64_t>(i), head_rows)];
  }
  return out;
}

}  // namespace

std::vector<FileTensor> FileTensors(const std::vector<FamilyTensor>& tensors, FileFormat format) {
  std::vector<FileTensor> out;
  const auto name = [format](const FamilyTensor& t) {
    return format == FileFormat::kHuggingFace ? t.hugging_face : t.gguf;
  };
  std::map<std::string, size_t> places;  // the parts need not follow each other
  for (const FamilyTensor& tensor : tensors) {
    const auto [place, fresh] = places.emplace(name(tensor), out.size());
    if (fresh) out.emplace_back();
    out[place->second].push_back(tensor);
  }
  return out;
}

std::vector<int64_t> FileShape(const FileTensor& tensor) { return tensor.front().SourceShape(); }

absl::StatusOr<std::unique_ptr<PackageWeights>> PackageWeights::Open(ResolvedPackage package) {
  std::unique_ptr<PackageWeights> out(new PackageWeights(std::move(package)));
  const ResolvedPackage& from = out->package_;
  SA_ASSIGN_OR_RETURN(out->config_, ParsePackageConfig(from.config_json));
  SA_ASSIGN_OR_RETURN(out->family_, FamilyByName(out->spec().family));
  for (const PackageLayer& layer : out->config_.layers) out->layers_[layer.name] = layer;
  SA_ASSIGN_OR_RETURN(const std::string tokenizer, from.read(out->config_.tokenizer));
  SA_ASSIGN_OR_RETURN(out->tokenizer_, ParseJsonObject(tokenizer, "the package's tokenizer.json"));
  SA_ASSIGN_OR_RETURN(std::string blob, from.read(out->config_.unquantized));
  SA_ASSIGN_OR_RETURN(out->context_.unquantized,
                      ParseUnquantized(std::move(blob), out->spec(), out->config_.unquantized));
  out->context_.exponent_sets = out->config_.exponent_sets;
  return out;
}

absl::StatusOr<PackedLayer> PackageWeights::Layer(const std::string& name) {
  if (const auto found = layers_.find(name); found != layers_.end()) {
    const PackageLayer& layer = found->second;
    SA_ASSIGN_OR_RETURN(std::string blob, package_.read(layer.digest));
    return ParsePackedLayer(std::move(blob), name, layer.rows, layer.cols, context_, layer.digest);
  }
  if (head_ == nullptr) {
    SA_ASSIGN_OR_RETURN(std::string blob, package_.read(config_.head));
    SA_ASSIGN_OR_RETURN(PackedHead head, ParsePackedHead(std::move(blob), spec(), config_.head));
    head_ = std::make_unique<PackedHead>(std::move(head));
  }
  if (name == "embed") return head_->embed;
  if (name == "head" && head_->head.has_value()) return *head_->head;
  return absl::NotFoundError(absl::StrCat("the package has no tensor '", name, "'"));
}

absl::Status PackageWeights::Read(const FamilyTensor& tensor, const RowSink& sink) {
  return ReadFused({tensor}, 1, sink);
}

absl::Status PackageWeights::ReadAsIn(FileFormat format, const FileTensor& tensor,
                                      const RowSink& sink) {
  const FamilyTensor& first = tensor.front();
  if (format == FileFormat::kHuggingFace) {
    return ReadFused(tensor, first.hugging_face_fused_heads, sink);
  }
  return first.interleaved_heads > 0 ? ReadInterleaved(first, sink) : ReadFused(tensor, 1, sink);
}

absl::Status PackageWeights::ReadFused(const FileTensor& parts, int64_t heads,
                                       const RowSink& sink) {
  const auto& plain = context_.unquantized->values;
  std::vector<PackedLayer> layers;
  for (const FamilyTensor& part : parts) {
    if (plain.count(part.canonical) > 0) continue;
    SA_ASSIGN_OR_RETURN(PackedLayer layer, Layer(part.canonical));
    layers.push_back(std::move(layer));
  }
  const int64_t run = parts.front().shape[0] / heads;
  std::vector<float> rows;
  for (int64_t head = 0; head < heads; ++head) {
    for (size_t p = 0; p < parts.size(); ++p) {
      if (layers.empty()) {
        const std::vector<float>& values = plain.at(parts[p].canonical);  // positions have rows too
        const auto size = static_cast<int64_t>(values.size()) / heads;
        rows.assign(values.begin() + head * size, values.begin() + (head + 1) * size);
        SA_RETURN_IF_ERROR(sink(rows));
        continue;
      }
      const int64_t step = std::max<int64_t>(1, kChunkNumbers / layers[p].cols);
      for (int64_t i = 0; i < run; i += step) {
        const int64_t count = std::min(step, run - i), begin = head * run + i;
        rows.resize(static_cast<size_t>(count * layers[p].cols));
        DequantizeLayerRows(layers[p], begin, begin + count, rows.data());
        SA_RETURN_IF_ERROR(sink(rows));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status PackageWeights::ReadInterleaved(const FamilyTensor& tensor, const RowSink& sink) {
  const int64_t heads = tensor.interleaved_heads;
  const auto vector = context_.unquantized->values.find(tensor.canonical);
  if (vector != context_.unquantized->values.end()) return sink(Interleave(vector->second, heads));
  SA_ASSIGN_OR_RETURN(const PackedLayer layer, Layer(tensor.canonical));
  const int64_t step = std::max<int64_t>(1, kChunkNumbers / layer.cols);
  std::vector<float> rows;
  for (int64_t begin = 0; begin < layer.rows; begin += step) {
    const int64_t end = std::min(layer.rows, begin + step);
    rows.resize(static_cast<size_t>((end - begin) * layer.cols));
    for (int64_t row = begin; row < end; ++row) {
      const int64_t from = CanonicalRow(row, layer.rows / heads);
      DequantizeLayerRows(layer, from, from + 1, rows.data() + (row - begin) * layer.cols);
    }
    SA_RETURN_IF_ERROR(sink(rows));
  }
  return absl::OkStatus();
}

}  // namespace shiftadd
