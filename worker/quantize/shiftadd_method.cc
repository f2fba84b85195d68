#include "worker/quantize/shiftadd_method.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "services/base/status_macros.h"
#include "worker/quantize/group_loop.h"
#include "worker/quantize/parallel.h"
#include "worker/quantize/stage_timer.h"
#include "worker/quantize/sweep.h"
#include "worker/quantize/weight_checks.h"

namespace shiftadd::quantize {
namespace {

// The chunk's weights as the loop wants them, tiles [k][16]; missing rows are 0.
std::vector<float> MakeTiles(const RowChunk& chunk, const std::vector<float>& w) {
  const int64_t k = chunk.h->k, tiles = (chunk.rows() + kLanes - 1) / kLanes;
  std::vector<float> out(tiles * k * kLanes, 0.0f), row(k);
  for (int64_t r = 0; r < chunk.rows(); ++r) {
    chunk.h->LoadRow(w.data() + (chunk.begin + r) * k, row.data());
    float* tile = out.data() + r / kLanes * k * kLanes + r % kLanes;
    for (int64_t p = 0; p < k; ++p) tile[p * kLanes] = row[p];
  }
  return out;
}

// Writes one row of one group. Planes of negative scale are flipped, free scales sorted descending.
class GroupPacker {
 public:
  GroupPacker(const PreparedHessianImpl& h, const GroupLoopOptions& options, LayerPacking* out)
      : h_(h), options_(options), table_(kernels::DefaultExponentTable(options.q)), out_(out) {}

  absl::Status Pack(int64_t row, float magnitude, const LoopFactor::Group& group,
                    const GroupScales& scales, const uint8_t* codes, int lane) {
    const int64_t g = h_.order[group.begin] / out_->group;  // groups stay whole in every order
    const int64_t at = row * out_->groups() + g;
    float low = 0.0f;  // the sum of the positive scales
    if (options_.scales == QuantScales::kShift) {
      SA_RETURN_IF_ERROR(PackShift(row, at, magnitude, scales.shift, lane, &low));
    } else {
      SA_RETURN_IF_ERROR(PackFree(row, at, magnitude, scales.free, lane, &low));
    }
    if (options_.offset) {
      const float z =
          options_.scales == QuantScales::kShift ? scales.shift.z[lane] : scales.free.z[lane];
      SA_RETURN_IF_ERROR(StoreOffset(out_->name, row, z - low, &out_->zeta[at]));
    }
    for (int64_t p = group.begin; p < group.begin + group.size; ++p) {
      const uint8_t code = codes[p * kLanes + lane] ^ flip_;
      uint8_t planes = 0;
      for (int i = 0; i < options_.q; ++i) planes |= ((code >> plane_[i]) & 1) << i;
      out_->codes[row * out_->k + h_.order[p]] = planes;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status PackShift(int64_t row, int64_t at, float magnitude, const ShiftScales& scales,
                         int lane, float* low) {
    const float s = std::fabs(scales.s[lane]);
    const int set = scales.set[lane];
    flip_ = scales.s[lane] < 0.0f ? static_cast<uint8_t>((1 << options_.q) - 1) : 0;
    std::iota(plane_, plane_ + options_.q, 0);
    for (int i = 0; i < options_.q; ++i) *low += std::ldexp(s, table_.exponents[set][i]);
    out_->sets[at] = static_cast<uint8_t>(set);
    return StoreScale(out_->name, row, "scale", s, magnitude, &out_->scale[at]);
  }

  absl::Status PackFree(int64_t row, int64_t at, float magnitude, const FreeScales& scales,
                        int lane, float* low) {
    flip_ = 0;
    std::iota(plane_, plane_ + options_.q, 0);
    std::stable_sort(plane_, plane_ + options_.q, [&](int a, int b) {
      return std::fabs(scales.alpha[a][lane]) > std::fabs(scales.alpha[b][lane]);
    });
    for (int i = 0; i < options_.q; ++i) {
      const float alpha = scales.alpha[plane_[i]][lane];
      if (alpha < 0.0f) flip_ |= static_cast<uint8_t>(1 << plane_[i]);
      *low += std::fabs(alpha);
      SA_RETURN_IF_ERROR(StoreScale(out_->name, row, "scale", std::fabs(alpha), magnitude,
                                    &out_->alpha[at * options_.q + i]));
    }
    return absl::OkStatus();
  }

  const PreparedHessianImpl& h_;
  const GroupLoopOptions options_;
  const kernels::ExponentTable table_;
  LayerPacking* const out_;
  uint8_t flip_ = 0;            // bits of the loop's code to turn over
  int plane_[kMaxPlanes] = {};  // stored plane i is the loop's plane plane_[i]
};

// The largest |weight| of each row of a tile, before the loop changes it.
void TileMagnitudes(const float* w, int64_t k, float* out) {
  std::fill_n(out, kLanes, 0.0f);
  for (int64_t j = 0; j < k * kLanes; ++j)
    out[j % kLanes] = std::max(out[j % kLanes], std::fabs(w[j]));
}

absl::Status PackTile(const RowChunk& chunk, const GroupLoopOptions& options, const float* weights,
                      int64_t tile, const GroupLoopTile& result, LayerPacking* layer) {
  const PreparedHessianImpl& h = *chunk.h;
  GroupPacker packer(h, options, layer);
  float magnitude[kLanes];
  TileMagnitudes(weights, h.k, magnitude);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t row = chunk.begin + tile * kLanes + lane;
    if (row >= chunk.end) break;
    for (size_t g = 0; g < h.factor.groups.size(); ++g) {
      SA_RETURN_IF_ERROR(packer.Pack(row, magnitude[lane], h.factor.groups[g], result.scales[g],
                                     result.codes.data(), lane));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void PrepareShiftAdd(const PreparedHessianImpl& h, const QuantRecipe& recipe, LayerPacking* layer) {
  layer->encoding = recipe.scales == QuantScales::kShift ? kernels::Encoding::kBcqShift
                                                         : kernels::Encoding::kBcqFree;
  layer->rotation = h.rotated ? kernels::Rotation::kWht128 : kernels::Rotation::kNone;
  layer->signs = h.rotated ? h.signs.data() : nullptr;
  layer->Allocate(recipe.offset);
}

absl::Status QuantizeShiftAdd(const RowChunk& chunk, const std::vector<float>& w,
                              const QuantRecipe& recipe, int threads, TaskControl* control,
                              StageSeconds* seconds, std::vector<LayerPacking>* layers) {
  const LoopFactor& factor = chunk.h->factor;
  const int64_t tiles = (chunk.rows() + kLanes - 1) / kLanes, tile_size = factor.k * kLanes;
  const std::vector<float> weights = MakeTiles(chunk, w);
  // Tiles a work item: many share the reading of U and H, few leave no thread without work.
  const int64_t widths = static_cast<int64_t>(layers->size());
  const int64_t per_item = std::clamp<int64_t>(tiles * widths / (4 * std::max(threads, 1)), 1, 4);
  const int64_t items = (tiles + per_item - 1) / per_item;
  std::vector<std::vector<GroupLoopTile>> results(items * widths);
  const auto options = [&](int64_t item) {
    GroupLoopOptions out;
    out.q = (*layers)[item / items].q;
    out.scales = recipe.scales;
    out.offset = recipe.offset;
    out.rounds = recipe.rounds;
    out.inner_rounds = recipe.inner_rounds;
    return out;
  };
  const auto for_items = [&](const auto& work) {
    return ParallelFor(items * widths, threads, control, work);
  };
  {
    const StageTimer timer(&seconds->fit);
    SA_RETURN_IF_ERROR(for_items([&](int64_t item) {
      const int64_t first = item % items * per_item, count = std::min(per_item, tiles - first);
      std::vector<float> scratch(weights.begin() + first * tile_size,
                                 weights.begin() + (first + count) * tile_size);
      results[item] = RunGroupLoop(BestTileKernels(), factor, options(item),
                                   static_cast<int>(count), scratch.data());
      return absl::OkStatus();
    }));
  }
  {
    const StageTimer timer(&seconds->sweep);
    SA_RETURN_IF_ERROR(for_items([&](int64_t item) {
      RunSweeps(BestTileKernels(), factor, options(item), recipe.sweeps,
                weights.data() + item % items * per_item * tile_size, &results[item]);
      return absl::OkStatus();
    }));
  }
  const StageTimer timer(&seconds->measure);
  return for_items([&](int64_t item) {
    const int64_t first = item % items * per_item;
    for (size_t t = 0; t < results[item].size(); ++t) {
      const int64_t tile = first + static_cast<int64_t>(t);
      SA_RETURN_IF_ERROR(PackTile(chunk, options(item), weights.data() + tile * tile_size, tile,
                                  results[item][t], &(*layers)[item / items]));
    }
    return absl::OkStatus();
  });
}

}  // namespace shiftadd::quantize
