// Layers in shards of rows: where they may be cut, and how their blobs are joined.
#include <algorithm>
#include <map>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/quantize/acc.h"
#include "worker/quantize/lat.h"
#include "worker/quantize/layer_blob.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/quantize/tile_kernels.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {
namespace {

struct Shard {
  std::unique_ptr<TensorSource> file;
  std::map<std::string, std::string> metadata;
  int64_t rows = 0;
};

absl::StatusOr<Shard> ReadShard(const std::string& where, const std::string& blob) {
  Shard out;
  SA_ASSIGN_OR_RETURN(out.file, ParseSafetensors(blob, where));
  for (const auto& [key, value] : out.file->metadata().items()) {
    if (value.is_string()) out.metadata[key] = value.get<std::string>();
  }
  const auto rows = out.metadata.find("rows");
  if (rows == out.metadata.end() || !absl::SimpleAtoi(rows->second, &out.rows) || out.rows < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": metadata 'rows' is ", rows == out.metadata.end() ? "missing" : rows->second,
        ", expected the number of rows of a quantized layer"));
  }
  out.metadata.erase(rows);
  return out;
}

// The dimension of a tensor along which the rows of the layer run.
size_t RowDimension(const std::string& tensor, const std::string& encoding) {
  if (tensor == "planes") return 1;                              // [q, N, words]
  return tensor == "alpha" && encoding == "bcq/block8" ? 1 : 0;  // [K/8, N/R, q]
}

absl::Status Mismatch(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": ", what, " differs from that of the first shard"));
}

// One tensor of all shards, joined along `dim`; its bytes go to `data`.
absl::StatusOr<TensorToWrite> JoinTensor(const std::string& name, size_t dim,
                                         const std::string& layer, const std::vector<Shard>& shards,
                                         std::string* data) {
  TensorToWrite out;
  std::vector<absl::string_view> bytes;
  int64_t outer = 1;
  for (size_t s = 0; s < shards.size(); ++s) {
    const std::string where = absl::StrCat("layer ", layer, ", shard ", s);
    const auto& tensors = shards[s].file->tensors();
    const auto found = tensors.find(name);
    if (found == tensors.end() || found->second.shape.size() <= dim) {
      return Mismatch(where, absl::StrCat("tensor '", name, "'"));
    }
    const TensorInfo& info = found->second;
    SA_ASSIGN_OR_RETURN(const absl::string_view part, shards[s].file->Bytes(name));
    bytes.push_back(part);
    if (s == 0) {
      out.name = name;
      out.dtype = info.dtype;
      out.shape = info.shape;
      for (size_t d = 0; d < dim; ++d) outer *= info.shape[d];
      continue;
    }
    std::vector<int64_t> shape = info.shape;
    if (shape.size() == out.shape.size()) shape[dim] = out.shape[dim];
    if (info.dtype != out.dtype || shape != out.shape) {
      return Mismatch(where, absl::StrCat("tensor '", name, "'"));
    }
    out.shape[dim] += info.shape[dim];
  }
  for (int64_t i = 0; i < outer; ++i) {
    for (const absl::string_view part : bytes) {
      const size_t size = part.size() / static_cast<size_t>(outer);
      data->append(part.data() + static_cast<size_t>(i) * size, size);
    }
  }
  return out;
}

// Shards of a raw layer may be of different types: each has the smallest that holds its rows.
absl::StatusOr<std::string> JoinRaw(const std::string& name, const std::vector<Shard>& shards) {
  std::vector<float> weight;
  int64_t n = 0, k = 0;
  for (size_t s = 0; s < shards.size(); ++s) {
    const std::string where = absl::StrCat("layer ", name, ", shard ", s);
    const auto found = shards[s].file->tensors().find("weight");
    if (found == shards[s].file->tensors().end() || found->second.shape.size() != 2 ||
        found->second.shape[0] != shards[s].rows || (s > 0 && found->second.shape[1] != k)) {
      return Mismatch(where, "tensor 'weight'");
    }
    k = found->second.shape[1];
    weight.resize((n + shards[s].rows) * k);
    SA_RETURN_IF_ERROR(
        shards[s].file->ReadRows("weight", 0, shards[s].rows, weight.data() + n * k));
    n += shards[s].rows;
  }
  std::map<std::string, std::string> more;
  for (const char* key : {"simulated", "simulated_planes"}) {
    const auto found = shards[0].metadata.find(key);
    if (found != shards[0].metadata.end()) more[key] = found->second;
  }
  return BuildRawLayerBlob(name, weight, n, k, more);
}

}  // namespace

int64_t RowAlignment(const QuantRecipe& recipe, int64_t n) {
  switch (recipe.method) {
    case QuantMethod::kLat:
      return quantize::LatBlockRows(recipe.group, n);
    case QuantMethod::kAcc:  // its rotation mixes all rows
      return recipe.rotation == QuantRotation::kButterfly ? n
                                                          : quantize::AccGroupRows(recipe.group, n);
    case QuantMethod::kShiftAdd:
    case QuantMethod::kRtn:
    case QuantMethod::kOptq:
      break;
  }
  // Rows do not depend on each other; whole tiles leave no lane idle.
  return std::min<int64_t>(quantize::kLanes, n);
}

absl::StatusOr<std::string> JoinLayerBlobs(const std::string& name,
                                           const std::vector<std::string>& blobs) {
  if (blobs.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", name, ": no shards to join"));
  }
  std::vector<Shard> shards;
  int64_t rows = 0, block_rows = 0;
  for (size_t s = 0; s < blobs.size(); ++s) {
    const std::string where = absl::StrCat("layer ", name, ", shard ", s);
    SA_ASSIGN_OR_RETURN(Shard shard, ReadShard(where, blobs[s]));
    if (shard.metadata["layer"] != name) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": is of layer '", shard.metadata["layer"], "'"));
    }
    if (s > 0 && shard.metadata != shards[0].metadata) return Mismatch(where, "metadata");
    if (s > 0 && shard.file->tensors().size() != shards[0].file->tensors().size()) {
      return Mismatch(where, "the set of tensors");
    }
    const auto block = shard.metadata.find("block_rows");
    if (block != shard.metadata.end() && s + 1 < blobs.size() &&
        (!absl::SimpleAtoi(block->second, &block_rows) || block_rows < 1 ||
         shard.rows % block_rows != 0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, ": ", shard.rows, " rows, expected a multiple of block_rows ", block->second));
    }
    rows += shard.rows;
    shards.push_back(std::move(shard));
  }
  const std::string encoding = shards[0].metadata["encoding"];
  if (encoding == "raw") return JoinRaw(name, shards);
  const auto& tensors = shards[0].file->tensors();
  std::vector<std::string> data(tensors.size());
  std::vector<TensorToWrite> joined;
  for (const auto& [tensor, info] : tensors) {
    std::string* const bytes = &data[joined.size()];
    SA_ASSIGN_OR_RETURN(TensorToWrite whole,
                        JoinTensor(tensor, RowDimension(tensor, encoding), name, shards, bytes));
    whole.data = *bytes;
    joined.push_back(std::move(whole));
  }
  std::map<std::string, std::string> metadata = shards[0].metadata;
  metadata["rows"] = absl::StrCat(rows);
  return WriteSafetensors(std::move(joined), metadata);
}

}  // namespace shiftadd
