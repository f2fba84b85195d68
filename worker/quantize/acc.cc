#include "worker/quantize/acc.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/quantize/bcq_fit.h"
#include "worker/quantize/incoherence.h"
#include "worker/quantize/parallel.h"
#include "worker/quantize/tile_kernels.h"
#include "worker/quantize/tile_product.h"

namespace shiftadd::quantize {
namespace {

// The loop over all columns for one group of rows. Rows lie in tiles of sixteen: w [tiles][k][16],
// columns in processing order.
class AccGroup {
 public:
  AccGroup(const LoopFactor& factor, const QuantRecipe& recipe, int q, int64_t rows)
      : kernels_(BestTileKernels()),
        factor_(factor),
        rows_(rows),
        tiles_((rows + kLanes - 1) / kLanes),
        stride_(factor.k * kLanes),
        fitter_(q, recipe.rounds, recipe.apot_terms),
        w_(tiles_ * stride_, 0.0f),
        column_(rows),
        what_(rows) {}

  float& at(int64_t row, int64_t p) {
    return w_[row / kLanes * stride_ + p * kLanes + row % kLanes];
  }

  // Afterwards at() is what was quantized.
  void Run() {
    for (const LoopFactor::Group& block : factor_.groups) {  // 128 columns
      const int64_t end = block.begin + block.size;
      std::vector<float> err(tiles_ * block.size * kLanes, 0.0f);
      for (int64_t j = 0; j < block.size; ++j) {
        Column(block, j, err.data());
        for (int64_t t = 0; t < tiles_; ++t) {
          kernels_.trail(err.data() + (t * block.size + j) * kLanes, kLanes, 1,
                         block.u.data() + j * (block.size + 1) + 1, block.size, block.size - j - 1,
                         w_.data() + t * stride_ + (block.begin + j + 1) * kLanes, kLanes);
        }
      }
      SubtractProduct(kernels_, factor_.u, block.begin, block.size, end, factor_.k,
                      static_cast<int>(tiles_), err.data(), block.size * kLanes, w_.data(),
                      stride_);
    }
  }

 private:
  void Column(const LoopFactor::Group& block, int64_t j, float* err) {
    const int64_t p = block.begin + j;
    for (int64_t r = 0; r < rows_; ++r) column_[r] = at(r, p);
    fitter_.Fit(column_.data(), rows_, what_.data());
    for (int64_t r = 0; r < rows_; ++r) {
      err[(r / kLanes * block.size + j) * kLanes + r % kLanes] =
          (column_[r] - what_[r]) / factor_.u_diagonal[p];
      at(r, p) = what_[r];
    }
  }

  const TileKernels& kernels_;
  const LoopFactor& factor_;
  const int64_t rows_, tiles_, stride_;
  BcqFitter fitter_;
  std::vector<float> w_, column_, what_;
};

// Every group of every width: from(row, order) gives weights, to(layer, row, input, weight) takes
// them.
absl::Status RunGroups(const LoopFactor& factor, const std::vector<int64_t>& order,
                       const std::vector<double>& w, int64_t n, const QuantRecipe& recipe,
                       int64_t group_rows, int threads, TaskControl* control,
                       const std::vector<int>& widths, std::vector<std::vector<double>>* out) {
  const int64_t k = factor.k, groups = (n + group_rows - 1) / group_rows;
  for (size_t i = 0; i < widths.size(); ++i) out->emplace_back(n * k);
  return ParallelFor(groups * static_cast<int64_t>(widths.size()), threads, control,
                     [&](int64_t item) {
                       const int64_t begin = item % groups * group_rows;
                       const int64_t rows = std::min(group_rows, n - begin);
                       AccGroup group(factor, recipe, widths[item / groups], rows);
                       for (int64_t r = 0; r < rows; ++r) {
                         for (int64_t p = 0; p < k; ++p) {
                           group.at(r, p) = static_cast<float>(w[(begin + r) * k + order[p]]);
                         }
                       }
                       group.Run();
                       std::vector<double>& to = (*out)[item / groups];
                       for (int64_t r = 0; r < rows; ++r) {
                         for (int64_t p = 0; p < k; ++p) {
                           to[(begin + r) * k + order[p]] = group.at(r, p);
                         }
                       }
                       return absl::OkStatus();
                     });
}

// Rounds a row of weights to fp16. `magnitude`: the largest weight it stands for.
absl::Status StoreRow(const std::string& name, int64_t row, const double* w, int64_t k,
                      float magnitude, float* out) {
  for (int64_t i = 0; i < k; ++i) {
    out[i] = kernels::HalfToFloat(kernels::FloatToHalf(static_cast<float>(w[i])));
    const bool lost = out[i] == 0.0f && std::fabs(w[i]) > std::ldexp(magnitude, -11);
    if (std::isfinite(out[i]) && !lost) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ", row ", row, ": weight ", w[i],
                     " is outside the range of fp16 (6e-8 to 65504)"));
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t SimulatedLayer::StoredBytes() const {
  const int64_t planes = q * k * ((n + 31) / 32) * 4;
  const int64_t scales = 2 * q * k * ((n + group_rows - 1) / group_rows);
  return static_cast<uint64_t>(planes + scales);
}

int64_t AccGroupRows(int64_t group, int64_t n) { return group > 0 ? std::min(group, n) : n; }

absl::Status QuantizeAcc(const RowChunk& chunk, const std::vector<float>& weights,
                         const QuantRecipe& recipe, int threads, TaskControl* control,
                         std::vector<SimulatedLayer>* layers) {
  const PreparedHessianImpl& h = *chunk.h;
  const int64_t n = chunk.rows(), k = h.k;
  std::vector<double> w(n * k);
  for (int64_t i = 0; i < n * k; ++i) {
    w[i] = h.dead[i % k] != 0 ? 0.0 : weights[chunk.begin * k + i];
  }
  std::vector<int> widths;
  for (const SimulatedLayer& layer : *layers) widths.push_back(layer.q);
  const int64_t group_rows = layers->front().group_rows;
  std::vector<std::vector<double>> what;
  if (recipe.rotation == QuantRotation::kButterfly) {
    std::vector<double> moments = h.moments;
    const Incoherence incoherence(n, k, recipe.seed, &moments, &w);
    SA_ASSIGN_OR_RETURN(const OrderedFactor ordered,
                        FactorByDiagonal(std::move(moments), k, recipe.damping));
    SA_RETURN_IF_ERROR(RunGroups(ordered.factor, ordered.order, w, n, recipe, group_rows, threads,
                                 control, widths, &what));
    for (std::vector<double>& layer : what) incoherence.Undo(&layer);
  } else {
    SA_RETURN_IF_ERROR(
        RunGroups(h.factor, h.order, w, n, recipe, group_rows, threads, control, widths, &what));
  }
  for (size_t i = 0; i < layers->size(); ++i) {
    SimulatedLayer& layer = (*layers)[i];
    for (int64_t r = 0; r < n; ++r) {
      const float* row = weights.data() + (chunk.begin + r) * k;
      float magnitude = 0.0f;
      for (int64_t c = 0; c < k; ++c) magnitude = std::max(magnitude, std::fabs(row[c]));
      SA_RETURN_IF_ERROR(StoreRow(layer.name, chunk.begin + r, what[i].data() + r * k, k, magnitude,
                                  layer.weights.data() + (chunk.begin + r) * k));
    }
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::quantize
