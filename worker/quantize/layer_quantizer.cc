#include "worker/quantize/layer_quantizer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/packed_matrix.h"
#include "services/base/status_macros.h"
#include "worker/quantize/acc.h"
#include "worker/quantize/lat.h"
#include "worker/quantize/layer_blob.h"
#include "worker/quantize/layer_error.h"
#include "worker/quantize/layer_packing.h"
#include "worker/quantize/optq.h"
#include "worker/quantize/parallel.h"
#include "worker/quantize/prepared_hessian.h"
#include "worker/quantize/rtn.h"
#include "worker/quantize/shiftadd_method.h"
#include "worker/quantize/stage_timer.h"
#include "worker/quantize/weight_checks.h"

namespace shiftadd {
namespace {

using quantize::EffectiveGroup;
using quantize::Impl;
using quantize::LayerPacking;
using quantize::PreparedHessianImpl;
using quantize::RowChunk;
using quantize::SimulatedLayer;

template <typename... Parts>
absl::Status Wrong(const std::string& name, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": ", parts...));
}

absl::Status CheckHessian(const std::string& name, int64_t k, const PreparedHessianImpl& h,
                          const QuantRecipe& recipe) {
  if (h.k != k) return Wrong(name, "Hessian of width ", h.k, ", expected ", k);
  const bool rotate =
      recipe.method == QuantMethod::kShiftAdd && recipe.rotation == QuantRotation::kWht128;
  const bool by_groups =
      recipe.method == QuantMethod::kShiftAdd || recipe.method == QuantMethod::kOptq;
  const bool butterfly =
      recipe.method == QuantMethod::kAcc && recipe.rotation == QuantRotation::kButterfly;
  if (h.method != recipe.method || h.rotated != rotate || (rotate && h.seed != recipe.seed) ||
      butterfly != !h.moments.empty() ||
      (by_groups &&
       (h.group != EffectiveGroup(recipe.group, k) || h.order_kind != recipe.order ||
        (recipe.method == QuantMethod::kShiftAdd && recipe.sweeps > 0 && h.factor.h.empty())))) {
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
                           StageSeconds* seconds, std::vector<LayerPacking>* layers) {
  if (recipe.method == QuantMethod::kShiftAdd) {
    return quantize::QuantizeShiftAdd(chunk, w, recipe, threads, control, seconds, layers);
  }
  const quantize::StageTimer timer(&seconds->fit);
  switch (recipe.method) {
    case QuantMethod::kLat:
      return quantize::QuantizeLat(chunk, w, recipe, threads, control, layers);
    case QuantMethod::kOptq:
      return quantize::QuantizeOptq(chunk, w, threads, control, layers);
    default:
      return QuantizeRtn(chunk, w, threads, control, layers);
  }
}

// A layer at one width, before it is measured.
struct Quantized {
  int bits = 0;
  std::string blob;
  uint64_t stored_bytes = 0;
  quantize::RowReader what;
};

// All methods whose result is packed. `layers` must outlive the result.
absl::StatusOr<std::vector<Quantized>> QuantizePacked(const std::string& name,
                                                      const std::vector<RowChunk>& chunks,
                                                      const std::vector<float>& w,
                                                      const QuantRecipe& recipe, int threads,
                                                      TaskControl* control, StageSeconds* seconds,
                                                      std::vector<LayerPacking>* layers) {
  for (const RowChunk& chunk : chunks) {
    SA_RETURN_IF_ERROR(QuantizeChunk(chunk, w, recipe, threads, control, seconds, layers));
  }
  const quantize::StageTimer timer(&seconds->measure);
  std::vector<Quantized> out;
  for (LayerPacking& layer : *layers) {
    layer.Pack();
    const kernels::PackedMatrix m = layer.View();
    Quantized one;
    one.bits = layer.q;
    one.stored_bytes = kernels::StoredBytes(m);
    one.what = [m](int64_t begin, int64_t end, float* what) {
      kernels::DequantizeUnrotated(m, begin, end, what);
    };
    SA_ASSIGN_OR_RETURN(one.blob, BuildLayerBlob(name, m));
    out.push_back(std::move(one));
  }
  return out;
}

// Method acc. `layers` must outlive the result.
absl::StatusOr<std::vector<Quantized>> QuantizeSimulated(
    const std::string& name, const std::vector<RowChunk>& chunks, const std::vector<float>& w,
    const QuantRecipe& recipe, int threads, TaskControl* control, StageSeconds* seconds,
    std::vector<SimulatedLayer>* layers) {
  const quantize::StageTimer timer(&seconds->fit);
  for (const RowChunk& chunk : chunks) {
    SA_RETURN_IF_ERROR(quantize::QuantizeAcc(chunk, w, recipe, threads, control, layers));
  }
  std::vector<Quantized> out;
  for (const SimulatedLayer& layer : *layers) {
    Quantized one;
    one.bits = layer.q;
    one.stored_bytes = layer.StoredBytes();
    one.what = [&layer](int64_t begin, int64_t end, float* what) {
      std::copy(layer.weights.begin() + begin * layer.k, layer.weights.begin() + end * layer.k,
                what);
    };
    SA_ASSIGN_OR_RETURN(one.blob, BuildRawLayerBlob(name, layer.weights, layer.n, layer.k,
                                                    {{"simulated", "acc"},
                                                     {"simulated_planes", absl::StrCat(layer.q)}}));
    out.push_back(std::move(one));
  }
  return out;
}

absl::StatusOr<std::vector<Candidate>> Measure(std::vector<Quantized> layers,
                                               const std::vector<RowChunk>& chunks,
                                               const std::vector<float>& w,
                                               const QuantRecipe& recipe, int threads,
                                               TaskControl* control) {
  SA_ASSIGN_OR_RETURN(const ErrorSums base,
                      quantize::MeasureRows(chunks, w, nullptr, threads, control));
  SA_ASSIGN_OR_RETURN(const double criterion,
                      quantize::PaperCriterion(chunks, w, threads, control));
  const double weights = static_cast<double>(w.size());
  std::vector<Candidate> out;
  for (Quantized& layer : layers) {
    Candidate c;
    c.bits = layer.bits;
    c.blob = std::move(layer.blob);
    c.stored_bytes = layer.stored_bytes;
    c.stored_bits = 8.0 * static_cast<double>(c.stored_bytes) / weights;
    SA_ASSIGN_OR_RETURN(c.sums, quantize::MeasureRows(chunks, w, &layer.what, threads, control));
    c.sums.weight_norm = base.weight_norm;
    c.sums.output_norm = base.output_norm;
    c.weight_error = base.weight_norm > 0.0 ? c.sums.weight / base.weight_norm : 0.0;
    c.output_error = base.output_norm > 0.0 ? c.sums.output / base.output_norm : 0.0;
    c.importance = weights * c.output_error;
    c.guided_error = recipe.hessian == QuantHessian::kGuided ? c.sums.output : 0.0;
    c.paper_criterion = criterion;
    out.push_back(std::move(c));
  }
  return out;
}

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
  StageSeconds unused;
  if (seconds == nullptr) seconds = &unused;
  std::vector<LayerPacking> packed;
  std::vector<SimulatedLayer> simulated;
  std::vector<Quantized> layers;
  if (recipe.method == QuantMethod::kAcc) {
    for (const int q : bits) {
      simulated.push_back({name, n, k, q, quantize::AccGroupRows(recipe.group, shard.layer_rows),
                           std::vector<float>(w.size())});
    }
    SA_ASSIGN_OR_RETURN(
        layers, QuantizeSimulated(name, chunks, w, recipe, threads, control, seconds, &simulated));
  } else {
    for (const int q : bits) {
      packed.emplace_back();
      packed.back().name = name;
      packed.back().n = n;
      packed.back().k = k;
      packed.back().group = recipe.group > 0 ? recipe.group : k;
      packed.back().q = q;
      PrepareLayer(recipe, *chunks.front().h, shard.layer_rows, &packed.back());
    }
    SA_ASSIGN_OR_RETURN(
        layers, QuantizePacked(name, chunks, w, recipe, threads, control, seconds, &packed));
  }
  const quantize::StageTimer timer(&seconds->measure);
  return Measure(std::move(layers), chunks, w, recipe, threads, control);
}

}  // namespace shiftadd
