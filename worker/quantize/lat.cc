#include "worker/quantize/lat.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/quantize/group_loop.h"
#include "worker/quantize/parallel.h"
#include "worker/quantize/tile_kernels.h"
#include "worker/quantize/weight_checks.h"

namespace shiftadd::quantize {
namespace {

constexpr int64_t kBlock = 8;  // inputs that share a scale

// Sixteen groups of `rows` rows, side by side: w [k][rows][16], lane l holding rows (first_group +
// l) * R + r. The loop runs over all k inputs in processing order.
class LatTile {
 public:
  LatTile(const PreparedHessianImpl& h, const QuantRecipe& recipe, int64_t first_group,
          int64_t groups, int64_t rows, LayerPacking* out)
      : kernels_(BestTileKernels()),
        h_(h),
        first_group_(first_group),
        groups_(groups),
        rows_(rows),
        width_(rows * kLanes),
        out_(out),
        w_(h.k * width_, 0.0f) {
    start_.q = options_.q = out->q;
    start_.rounds = recipe.rounds;
    start_.apot_terms = recipe.apot_terms;
    options_.scales = QuantScales::kFree;
  }

  void Load(const std::vector<float>& w) {
    for (int64_t lane = 0; lane < groups_; ++lane) {
      for (int64_t r = 0; r < rows_; ++r) {
        const float* row = w.data() + Row(lane, r) * h_.k;
        for (int64_t p = 0; p < h_.k; ++p) {
          const int64_t input = h_.order[p];
          w_[p * width_ + r * kLanes + lane] = h_.dead[input] != 0 ? 0.0f : row[input];
        }
        magnitude_[lane] = std::max(magnitude_[lane], MaxAbs(row, h_.k));
      }
    }
  }

  absl::Status Run() {
    const int64_t k = h_.k;
    for (const LoopFactor::Group& block : h_.factor.groups) {  // 128 columns
      const int64_t end = block.begin + block.size;
      std::vector<float> err(block.size * width_);
      for (int64_t p = block.begin; p < end; ++p) {
        const int64_t j = p - block.begin;
        if (p % kBlock == 0) SA_RETURN_IF_ERROR(FitScales(p, std::min(p + kBlock, k)));
        RoundColumn(p, err.data() + j * width_);
        for (int64_t r = 0; r < rows_; ++r) {
          kernels_.trail(err.data() + j * width_ + r * kLanes, width_, 1,
                         block.u.data() + j * block.size + j + 1, block.size, end - p - 1,
                         w_.data() + (p + 1) * width_ + r * kLanes, width_);
        }
      }
      for (int64_t c = end, next; c < k; c = next) {
        next = h_.factor.u.PanelEnd(c);
        for (int64_t r = 0; r < rows_; ++r) {
          kernels_.trail(err.data() + r * kLanes, width_, block.size,
                         h_.factor.u.from(block.begin, c), PanelMatrix::kColumns, next - c,
                         w_.data() + c * width_ + r * kLanes, width_);
        }
      }
    }
    return absl::OkStatus();
  }

 private:
  int64_t Row(int64_t lane, int64_t r) const {
    return (first_group_ + lane) * out_->block_rows + r;
  }

  // Fits alpha on the current columns [begin, end), all rows of a group at once, and stores it:
  // from here on the fp16 values are the scales, so that the feedback sees their rounding too.
  absl::Status FitScales(int64_t begin, int64_t end) {
    GroupScales scales = {};
    kernels_.start_free(w_.data() + begin * width_, nullptr, (end - begin) * rows_, start_,
                        &scales.free);
    const int64_t row_groups = (out_->n + out_->block_rows - 1) / out_->block_rows;
    const int64_t block = h_.order[begin] / kBlock;
    for (int64_t lane = 0; lane < groups_; ++lane) {
      uint16_t* to = out_->alpha.data() + (block * row_groups + first_group_ + lane) * out_->q;
      for (int i = 0; i < out_->q; ++i) {
        float& alpha = scales.free.alpha[i][lane];
        SA_RETURN_IF_ERROR(
            StoreScale(out_->name, Row(lane, 0), "scale", alpha, magnitude_[lane], to + i));
        alpha = kernels::HalfToFloat(to[i]);
      }
    }
    MakeLevels(options_, scales, &levels_);
    return absl::OkStatus();
  }

  // Rounds column p with the scales of its block; err [rows][16] is what later columns compensate.
  void RoundColumn(int64_t p, float* err) {
    uint8_t codes[kLanes];
    float what[kLanes];
    for (int64_t r = 0; r < rows_; ++r) {
      kernels_.round_column(w_.data() + p * width_ + r * kLanes, levels_, h_.factor.u_diagonal[p],
                            codes, what, err + r * kLanes);
      for (int64_t lane = 0; lane < groups_; ++lane) {
        out_->codes[Row(lane, r) * h_.k + h_.order[p]] = codes[lane];
      }
    }
  }

  const TileKernels& kernels_;
  const PreparedHessianImpl& h_;
  const int64_t first_group_, groups_, rows_, width_;
  LayerPacking* const out_;
  StartOptions start_;
  GroupLoopOptions options_;
  Levels levels_;
  std::vector<float> w_;
  float magnitude_[kLanes] = {};  // the largest |weight| of each group's rows
};

}  // namespace

int64_t LatBlockRows(int64_t group, int64_t n) {
  return std::clamp<int64_t>((group > 0 ? group : n) / kBlock, 1, n);
}

void PrepareLat(LayerPacking* layer) {
  layer->encoding = kernels::Encoding::kBcqBlock8;
  layer->Allocate(/*with_zeta=*/false);
}

absl::Status QuantizeLat(const RowChunk& chunk, const std::vector<float>& w,
                         const QuantRecipe& recipe, int threads, TaskControl* control,
                         std::vector<LayerPacking>* layers) {
  const int64_t n = chunk.rows(), rows = layers->front().block_rows;
  const int64_t first = chunk.begin / rows;  // row group
  // Full groups sixteen at a time; a short last group is a tile of its own.
  const int64_t full = n / rows, tiles = (full + kLanes - 1) / kLanes, tail = n % rows;
  const int64_t items = tiles + (tail > 0 ? 1 : 0);
  return ParallelFor(items * static_cast<int64_t>(layers->size()), threads, control,
                     [&](int64_t item) {
                       const int64_t i = item % items;
                       const bool is_tail = i == tiles;
                       LatTile tile(*chunk.h, recipe, first + (is_tail ? full : i * kLanes),
                                    is_tail ? 1 : std::min<int64_t>(kLanes, full - i * kLanes),
                                    is_tail ? tail : rows, &(*layers)[item / items]);
                       tile.Load(w);
                       return tile.Run();
                     });
}

}  // namespace shiftadd::quantize
