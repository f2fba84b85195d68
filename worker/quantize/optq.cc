#include "worker/quantize/optq.h"

#include <algorithm>

#include "services/base/status_macros.h"
#include "worker/quantize/parallel.h"
#include "worker/quantize/rtn.h"
#include "worker/quantize/tile_kernels.h"
#include "worker/quantize/tile_product.h"

namespace shiftadd::quantize {
namespace {

// Rows [begin, end), at most sixteen.
class OptqTile {
 public:
  OptqTile(const PreparedHessianImpl& h, int64_t begin, int64_t end, LayerPacking* out)
      : kernels_(BestTileKernels()), h_(h), begin_(begin), end_(end), out_(out) {
    levels_.q = out->q;
  }

  absl::Status Run(const std::vector<float>& weights) {
    const int64_t k = h_.k;
    std::vector<float> w(k * kLanes, 0.0f), row(k);
    for (int64_t r = begin_; r < end_; ++r) {
      h_.LoadRow(weights.data() + r * k, row.data());
      for (int64_t p = 0; p < k; ++p) w[p * kLanes + r - begin_] = row[p];
    }
    for (const LoopFactor::Group& group : h_.factor.groups) {
      const int64_t end = group.begin + group.size;
      float* const current = w.data() + group.begin * kLanes;
      SA_RETURN_IF_ERROR(FitGrids(group, current));
      const std::vector<float> e = Round(group, current);
      SubtractProduct(kernels_, h_.factor.u, group.begin, group.size, end, k, 1, e.data(), 0,
                      w.data(), 0);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status FitGrids(const LoopFactor::Group& group, const float* w) {
    const int64_t g = h_.order[group.begin] / out_->group;  // groups stay whole in every order
    for (int64_t r = begin_; r < end_; ++r) {
      const int64_t lane = r - begin_;
      SA_ASSIGN_OR_RETURN(const RtnGrid grid,
                          FitRtnGrid(out_->name, r, w + lane, group.size, kLanes, out_->q));
      StoreRtnGrid(grid, r * out_->groups() + g, out_);
      for (int m = 0; m < (1 << out_->q); ++m) {
        levels_.level[RtnCode(m, out_->q)][lane] = static_cast<float>(grid.zero + m * grid.step);
      }
    }
    return absl::OkStatus();
  }

  // Column by column with feedback inside the group; what later groups compensate, [size][16].
  std::vector<float> Round(const LoopFactor::Group& group, const float* w) {
    const int64_t count = group.size * kLanes;
    std::vector<float> v(w, w + count), what(count), e(count);
    std::vector<uint8_t> codes(count);
    kernels_.round_group(v.data(), group.size, levels_, group.u.data(), group.size, codes.data(),
                         what.data(), nullptr);
    for (int64_t j = 0; j < group.size; ++j) {
      for (int64_t r = begin_; r < end_; ++r) {
        out_->codes[r * h_.k + h_.order[group.begin + j]] = codes[j * kLanes + r - begin_];
      }
    }
    for (int64_t i = 0; i < count; ++i) v[i] = w[i] - what[i];
    // The errors over U's diagonal, column by column, are the whole difference times R_GG.
    kernels_.tri_mul(v.data(), group.size, group.r.data(), group.size, e.data());
    return e;
  }

  const TileKernels& kernels_;
  const PreparedHessianImpl& h_;
  const int64_t begin_, end_;
  LayerPacking* const out_;
  Levels levels_ = {};  // lanes without a row stay at 0
};

}  // namespace

absl::Status QuantizeOptq(const RowChunk& chunk, const std::vector<float>& w, int threads,
                          TaskControl* control, std::vector<LayerPacking>* layers) {
  const int64_t tiles = (chunk.rows() + kLanes - 1) / kLanes;
  return ParallelFor(tiles * static_cast<int64_t>(layers->size()), threads, control,
                     [&](int64_t item) {
                       const int64_t begin = chunk.begin + item % tiles * kLanes;
                       OptqTile tile(*chunk.h, begin, std::min<int64_t>(begin + kLanes, chunk.end),
                                     &(*layers)[item / tiles]);
                       return tile.Run(w);
                     });
}

}  // namespace shiftadd::quantize
