#include "worker/quantize/layer_quantizer.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "kernels/packed_matrix.h"
#include "services/base/status_macros.h"
#include "worker/quantize/lat.h"
#include "worker/quantize/layer_blob.h"
#include "worker/quantize/layer_error.h"
#include "worker/quantize/layer_packing.h"
#include "worker/quantize/parallel.h"
#include "worker/quantize/prepared_hessian.h"
#include "worker/quantize/rtn.h"
#include "worker/quantize/shiftadd_method.h"
#include "worker/quantize/weight_checks.h"

namespace shiftadd {
namespace {

using quantize::EffectiveGroup;
using quantize::Impl;
using quantize::LayerPacking;
using quantize::PreparedHessianImpl;
using quantize::RowChunk;

template <typename... Parts>
absl::Status Wrong(const std::string& name, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": ", parts...));
}

absl::Status CheckHessian(const std::string& name, int64_t k, const PreparedHessianImpl& h,
                          const QuantRecipe& recipe) {
  if (h.k != k) return Wrong(name, "Hessian of width ", h.k, ", expected ", k);
  const bool rotate =
      recipe.method == QuantMethod::kShiftAdd && recipe.rotation == QuantRotation::kWht128;
  if (h.method != recipe.method || h.rotated != rotate || (rotate && h.seed != recipe.seed) ||
      (recipe.method == QuantMethod::kShiftAdd &&
       (h.group != EffectiveGroup(recipe.group, k) || h.order_kind != recipe.order ||
        (recipe.sweeps > 0 && h.factor.h.empty())))) {
    return Wrong(name, "the Hessian was prepared for another recipe");
  }
  return absl::OkStatus();
}

absl::Status CheckRecipe(const std::string& name, int64_t k, const QuantRecipe& recipe,
                         const std::vector<int>& bits) {
  if (recipe.group > 0 && recipe.group < k && recipe.group % 32 != 0) {
    return Wrong(name, "group is ", recipe.group, ", expected a multiple of 32 or the whole row");
  }
  for (const int q : bits) {
    if (q < 1 || q > kernels::kMaxPlanes) {
      return Wrong(name, "bits is ", q, ", expected 1 to ", kernels::kMaxPlanes);
    }
  }
  return absl::OkStatus();
}

// The shard with its layer's rows filled in.
absl::StatusOr<LayerShard> CheckShard(const std::string& name, int64_t n, const QuantRecipe& recipe,
                                      LayerShard shard) {
  if (shard.layer_rows == 0) shard.layer_rows = n;
  const int64_t end = shard.row_begin + n, align = RowAlignment(recipe, shard.layer_rows);
  if (shard.row_begin < 0 || end > shard.layer_rows || shard.row_begin % align != 0 ||
      (end != shard.layer_rows && end % align != 0)) {
    return Wrong(name, "shard of rows ", shard.row_begin, " to ", end, " of ", shard.layer_rows,
                 ", expected multiples of ", align);
  }
  return shard;
}

// The chunks that the shard's rows fall into, in rows of the shard.
absl::StatusOr<std::vector<RowChunk>> CutChunks(
    const std::string& name, int64_t n, int64_t k,
    const std::vector<std::shared_ptr<const PreparedHessian>>& hessians, const QuantRecipe& recipe,
    const LayerShard& shard) {
  const int64_t count = static_cast<int64_t>(hessians.size());
  if (count < 1 || count > shard.layer_rows) {
    return Wrong(name, "found ", count, " Hessians for ", shard.layer_rows, " rows");
  }
  std::vector<RowChunk> chunks;
  for (int64_t c = 0; c < count; ++c) {
    if (hessians[c] == nullptr) return Wrong(name, "Hessian of chunk ", c, " is missing");
    SA_RETURN_IF_ERROR(CheckHessian(name, k, Impl(*hessians[c]), recipe));
    const int64_t from = ChunkBegin(shard.layer_rows, count, c);
    // Rows that share a scale must share a Hessian.
    if (recipe.method == QuantMethod::kLat || recipe.method == QuantMethod::kAcc) {
      const int64_t align = RowAlignment(recipe, shard.layer_rows);
      if (from % align != 0) {
        return Wrong(name, "chunk ", c, " begins at row ", from, ", expected a multiple of ", align,
                     ", the rows that share a scale");
      }
    }
    RowChunk chunk;
    chunk.h = &Impl(*hessians[c]);
    chunk.begin = std::max<int64_t>(from - shard.row_begin, 0);
    chunk.end = std::min(ChunkBegin(shard.layer_rows, count, c + 1) - shard.row_begin, n);
    if (chunk.begin < chunk.end) chunks.push_back(chunk);
  }
  return chunks;
}

absl::Status QuantizeRtn(const RowChunk& chunk, const std::vector<float>& w, int threads,
                         TaskControl* control, std::vector<LayerPacking>* layers) {
  constexpr int64_t kRows = 64;
  const int64_t shards = (chunk.rows() + kRows - 1) / kRows;
  return quantize::ParallelFor(
      shards * static_cast<int64_t>(layers->size()), threads, control, [&](int64_t item) {
        const int64_t begin = chunk.begin + item % shards * kRows;
        return quantize::RtnRows(w.data(), begin, std::min(chunk.end, begin + kRows),
                                 &(*layers)[item / shards]);
      });
}

void PrepareLayer(const QuantRecipe& recipe, const PreparedHessianImpl& h, int64_t layer_rows,
                  LayerPacking* layer) {
  switch (recipe.method) {
    case QuantMethod::kLat:
      layer->block_rows = quantize::LatBlockRows(recipe.group, layer_rows);
      return quantize::PrepareLat(layer);
    case QuantMethod::kShiftAdd:
      return quantize::PrepareShiftAdd(h, recipe, layer);
    default:
      return layer->Allocate(/*with_zeta=*/true);
  }
}

absl::Status QuantizeChunk(const RowChunk& chunk, const std::vector<float>& w,
                           const QuantRecipe& recipe, int threads, TaskControl* control,
                           std::vector<LayerPacking>* layers) {
  switch (recipe.method) {
    case QuantMethod::kRtn:
      return QuantizeRtn(chunk, w, threads, control, layers);
    case QuantMethod::kLat:
      return quantize::QuantizeLat(chunk, w, recipe, threads, control, layers);
    case QuantMethod::kShiftAdd:
      return quantize::QuantizeShiftAdd(chunk, w, recipe, threads, control, layers);
    case QuantMethod::kAcc:
    case QuantMethod::kOptq:
      break;
  }
  return absl::UnimplementedError("this method cannot be quantized yet");
}

// Adds the time until its end to `*to`, if there is one.
class StageTimer {
 public:
  explicit StageTimer(double* to) : to_(to) {}
  ~StageTimer() {
    if (to_ == nullptr) return;
    *to_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  double* const to_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

absl::StatusOr<std::vector<Candidate>> QuantizeLayer(
    const std::string& name, const std::vector<float>& w, int64_t n, int64_t k,
    const std::vector<std::shared_ptr<const PreparedHessian>>& hessians, const QuantRecipe& recipe,
    const std::vector<int>& bits, int threads, TaskControl* control, StageSeconds* seconds,
    const LayerShard& part) {
  SA_RETURN_IF_ERROR(quantize::CheckWeights(name, w, n, k));
  SA_RETURN_IF_ERROR(CheckRecipe(name, k, recipe, bits));
  SA_ASSIGN_OR_RETURN(const LayerShard shard, CheckShard(name, n, recipe, part));
  SA_ASSIGN_OR_RETURN(const std::vector<RowChunk> chunks,
                      CutChunks(name, n, k, hessians, recipe, shard));
  if (bits.empty()) return std::vector<Candidate>();
  std::vector<LayerPacking> layers(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) {
    layers[i].name = name;
    layers[i].n = n;
    layers[i].k = k;
    layers[i].group = recipe.group > 0 ? recipe.group : k;
    layers[i].q = bits[i];
    PrepareLayer(recipe, *chunks.front().h, shard.layer_rows, &layers[i]);
  }
  {
    StageTimer timer(seconds != nullptr ? &seconds->fit : nullptr);
    for (const RowChunk& chunk : chunks) {
      SA_RETURN_IF_ERROR(
          Annotate(QuantizeChunk(chunk, w, recipe, threads, control, &layers), name));
    }
  }
  StageTimer timer(seconds != nullptr ? &seconds->measure : nullptr);
  SA_ASSIGN_OR_RETURN(const ErrorSums base,
                      quantize::MeasureRows(chunks, w, nullptr, threads, control));
  SA_ASSIGN_OR_RETURN(const double criterion,
                      quantize::PaperCriterion(chunks, w, threads, control));
  const double weights = static_cast<double>(n) * static_cast<double>(k);
  std::vector<Candidate> out;
  for (LayerPacking& layer : layers) {
    layer.Pack();
    const kernels::PackedMatrix m = layer.View();
    const quantize::RowReader read = [&m](int64_t begin, int64_t end, float* what) {
      kernels::DequantizeUnrotated(m, begin, end, what);
    };
    Candidate c;
    SA_ASSIGN_OR_RETURN(c.sums, quantize::MeasureRows(chunks, w, &read, threads, control));
    c.sums.weight_norm = base.weight_norm;
    c.sums.output_norm = base.output_norm;
    c.bits = layer.q;
    SA_ASSIGN_OR_RETURN(c.blob, BuildLayerBlob(name, m));
    c.stored_bytes = kernels::StoredBytes(m);
    c.stored_bits = 8.0 * static_cast<double>(c.stored_bytes) / weights;
    c.weight_error = base.weight_norm > 0.0 ? c.sums.weight / base.weight_norm : 0.0;
    c.output_error = base.output_norm > 0.0 ? c.sums.output / base.output_norm : 0.0;
    c.importance = weights * c.output_error;
    c.guided_error = recipe.hessian == QuantHessian::kGuided ? c.sums.output : 0.0;
    c.paper_criterion = criterion;
    out.push_back(std::move(c));
  }
  return out;
}

}  // namespace shiftadd
