#include "worker/quantize/layer_quantizer.h"

#include <algorithm>

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

namespace shiftadd::quantize {
namespace {

absl::Status CheckRequest(const std::string& name, int64_t k, const PreparedHessianImpl& h,
                          const QuantRecipe& recipe, const std::vector<int>& bits) {
  const auto wrong = [&](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": ", parts...));
  };
  if (h.k != k) return wrong("Hessian of width ", h.k, ", expected ", k);
  const bool rotate =
      recipe.method == QuantMethod::kShiftAdd && recipe.rotation == QuantRotation::kWht128;
  if (h.method != recipe.method || h.rotated != rotate || (rotate && h.seed != recipe.seed) ||
      (recipe.method == QuantMethod::kShiftAdd &&
       (h.group != EffectiveGroup(recipe.group, k) || h.order_kind != recipe.order))) {
    return wrong("the Hessian was prepared for another recipe");
  }
  if (recipe.group > 0 && recipe.group < k && recipe.group % 32 != 0) {
    return wrong("group is ", recipe.group, ", expected a multiple of 32 or the whole row");
  }
  for (const int q : bits) {
    if (q < 1 || q > kernels::kMaxPlanes)
      return wrong("bits is ", q, ", expected 1 to ", kernels::kMaxPlanes);
  }
  return absl::OkStatus();
}

absl::Status QuantizeRtn(const std::vector<float>& w, std::vector<LayerPacking>* layers,
                         int threads, TaskControl* control) {
  constexpr int64_t kRows = 64;
  const int64_t n = layers->front().n, shards = (n + kRows - 1) / kRows;
  for (LayerPacking& layer : *layers) layer.Allocate(/*with_zeta=*/true);
  return ParallelFor(
      shards * static_cast<int64_t>(layers->size()), threads, control, [&](int64_t item) {
        const int64_t begin = item % shards * kRows;
        return RtnRows(w.data(), begin, std::min(n, begin + kRows), &(*layers)[item / shards]);
      });
}

}  // namespace
}  // namespace shiftadd::quantize

namespace shiftadd {

using quantize::CheckRequest;
using quantize::CheckWeights;
using quantize::LayerPacking;
using quantize::MeasureRows;
using quantize::RowErrors;

absl::StatusOr<std::vector<Candidate>> QuantizeLayer(const std::string& name,
                                                     const std::vector<float>& w, int64_t n,
                                                     int64_t k, const PreparedHessian& prepared,
                                                     const QuantRecipe& recipe,
                                                     const std::vector<int>& bits, int threads,
                                                     TaskControl* control) {
  const quantize::PreparedHessianImpl& h = quantize::Impl(prepared);
  SA_RETURN_IF_ERROR(CheckWeights(name, w, n, k));
  SA_RETURN_IF_ERROR(CheckRequest(name, k, h, recipe, bits));
  if (bits.empty()) return std::vector<Candidate>();
  std::vector<LayerPacking> layers(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) {
    layers[i].name = name;
    layers[i].n = n;
    layers[i].k = k;
    layers[i].group = recipe.group > 0 ? recipe.group : k;
    layers[i].q = bits[i];
  }
  switch (recipe.method) {
    case QuantMethod::kRtn:
      SA_RETURN_IF_ERROR(quantize::QuantizeRtn(w, &layers, threads, control));
      break;
    case QuantMethod::kLat:
      SA_RETURN_IF_ERROR(quantize::QuantizeLat(h, w, recipe, threads, control, &layers));
      break;
    case QuantMethod::kShiftAdd:
      SA_RETURN_IF_ERROR(quantize::QuantizeShiftAdd(h, w, recipe, threads, control, &layers));
      break;
  }
  SA_ASSIGN_OR_RETURN(const RowErrors base, MeasureRows(h, w, nullptr, n, threads, control));
  std::vector<Candidate> out;
  for (LayerPacking& layer : layers) {
    layer.Pack();
    const kernels::PackedMatrix m = layer.View();
    SA_ASSIGN_OR_RETURN(const RowErrors error, MeasureRows(h, w, &m, n, threads, control));
    Candidate c;
    c.bits = layer.q;
    SA_ASSIGN_OR_RETURN(c.blob, BuildLayerBlob(name, m));
    c.stored_bytes = kernels::StoredBytes(m);
    c.stored_bits = 8.0 * static_cast<double>(c.stored_bytes) /
                    (static_cast<double>(n) * static_cast<double>(k));
    c.weight_error = base.weight > 0.0 ? error.weight / base.weight : 0.0;
    c.output_error = base.output > 0.0 ? error.output / base.output : 0.0;
    c.importance = static_cast<double>(n) * static_cast<double>(k) * c.output_error;
    out.push_back(std::move(c));
  }
  return out;
}

}  // namespace shiftadd
