#include "worker/quantize/group_loop.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "worker/quantize/small_solve.h"
#include "worker/quantize/tile_product.h"

namespace shiftadd::quantize {
namespace {

constexpr double kRefitRidge = 1e-4;

// One group of one tile. Buffers are reused from group to group.
class GroupSolver {
 public:
  GroupSolver(const TileKernels& kernels, const GroupLoopOptions& options, int64_t largest)
      : kernels_(kernels),
        options_(options),
        table_(kernels::DefaultExponentTable(options.q)),
        shift_(options.scales == QuantScales::kShift),
        unknowns_(UnknownsOf(options)),
        v_(largest * kLanes),
        what_(largest * kLanes),
        column_(largest * kLanes),
        d_(largest * kLanes),
        p_(unknowns_, std::vector<float>(largest * kLanes)),
        codes_(largest * kLanes) {}

  // Quantizes w [size][16]. Leaves the error times R_GG in `e`
  // [size][16].
  void Solve(const LoopFactor::Group& group, const float* w, GroupScales* best, uint8_t* best_codes,
             float* e, const GroupLoopObserver* observer, int64_t index) {
    GroupScales scales = {};
    Start(w, group, &scales);
    float best_loss[kLanes];
    std::fill_n(best_loss, kLanes, std::numeric_limits<float>::infinity());
    *best = scales;
    const int rounds = std::max(options_.inner_rounds, 1);
    for (int t = 0; t < rounds; ++t) {
      float loss[kLanes];
      Round(group, w, scales);
      Refit(group, w, &scales, loss);
      if (observer != nullptr) (*observer)(index, t, codes_.data(), loss);
      Keep(group.size, t, scales, loss, best, best_loss, best_codes);
    }
    Error(group, w, *best, best_codes, e);
  }

 private:
  void Start(const float* w, const LoopFactor::Group& group, GroupScales* scales) {
    StartOptions options;
    options.q = options_.q;
    options.offset = options_.offset;
    options.rounds = options_.rounds;
    if (shift_) {
      kernels_.start_shift(w, group.omega.data(), group.size, options, table_, &scales->shift);
    } else {
      kernels_.start_free(w, group.omega.data(), group.size, options, &scales->free);
    }
  }

  // Codes by OPTQ inside the group, into codes_, what_ and (shift) column_: the codes' units.
  void Round(const LoopFactor::Group& group, const float* w, const GroupScales& scales) {
    MakeLevels(options_, scales, &levels_);
    std::copy_n(w, group.size * kLanes, v_.begin());
    kernels_.round_group(v_.data(), group.size, levels_, group.u.data(), group.size, codes_.data(),
                         what_.data(), shift_ ? column_.data() : nullptr);
  }

  // With the codes fixed, moves the scales to the least loss in the group's metric; a singular
  // system moves nothing.
  void Refit(const LoopFactor::Group& group, const float* w, GroupScales* scales, float* loss) {
    const int64_t n = group.size;
    const int r = unknowns_;
    for (int64_t j = 0; j < n * kLanes; ++j) v_[j] = w[j] - what_[j];
    kernels_.tri_mul(v_.data(), n, group.r.data(), n, d_.data());
    for (int i = 0; i < r; ++i) {
      // The rounding has left the codes' units in column_.
      if (!shift_ || i > 0) DesignColumn(options_, levels_, codes_.data(), n, i, column_.data());
      kernels_.tri_mul(column_.data(), n, group.r.data(), n, p_[i].data());
    }
    float gram[kMaxUnknowns][kMaxUnknowns][kLanes], rhs[kMaxUnknowns][kLanes];
    for (int i = 0; i < r; ++i) {
      kernels_.dot(p_[i].data(), d_.data(), n, rhs[i]);
      for (int j = 0; j <= i; ++j) kernels_.dot(p_[i].data(), p_[j].data(), n, gram[i][j]);
    }
    float delta[kMaxUnknowns][kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      double a[kMaxUnknowns * kMaxUnknowns], x[kMaxUnknowns], diagonal = 0.0;
      for (int i = 0; i < r; ++i) {
        x[i] = rhs[i][lane];
        diagonal += gram[i][i][lane];
        for (int j = 0; j <= i; ++j) a[i * r + j] = gram[i][j][lane];
      }
      for (int i = 0; i < r; ++i) a[i * r + i] += kRefitRidge * diagonal / r;
      SolveSpd(r, a, x);  // zeros if it fails
      for (int i = 0; i < r; ++i) delta[i][lane] = static_cast<float>(x[i]);
    }
    for (int i = 0; i < r; ++i) {
      kernels_.axpy(delta[i], p_[i].data(), n, d_.data());
      float* to = ScaleOf(options_, i, scales);
      for (int lane = 0; lane < kLanes; ++lane) to[lane] += delta[i][lane];
    }
    kernels_.dot(d_.data(), d_.data(), n, loss);
  }

  void Keep(int64_t size, int round, const GroupScales& scales, const float* loss,
            GroupScales* best, float* best_loss, uint8_t* best_codes) {
    bool better[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      better[lane] = round == 0 || loss[lane] < best_loss[lane];
      if (!better[lane]) continue;
      best_loss[lane] = loss[lane];
      best->shift.s[lane] = scales.shift.s[lane];
      best->shift.z[lane] = scales.shift.z[lane];
      best->free.z[lane] = scales.free.z[lane];
      for (int i = 0; i < kMaxPlanes; ++i) best->free.alpha[i][lane] = scales.free.alpha[i][lane];
    }
    for (int64_t j = 0; j < size; ++j) {
      for (int lane = 0; lane < kLanes; ++lane) {
        uint8_t& to = best_codes[j * kLanes + lane];
        to = better[lane] ? codes_[j * kLanes + lane] : to;
      }
    }
  }

  void Error(const LoopFactor::Group& group, const float* w, const GroupScales& scales,
             const uint8_t* codes, float* e) {
    MakeLevels(options_, scales, &levels_);
    for (int64_t j = 0; j < group.size * kLanes; ++j) {
      v_[j] = w[j] - levels_.level[codes[j]][j % kLanes];
    }
    kernels_.tri_mul(v_.data(), group.size, group.r.data(), group.size, e);
  }

  const TileKernels& kernels_;
  const GroupLoopOptions options_;
  const kernels::ExponentTable table_;
  const bool shift_;
  const int unknowns_;
  Levels levels_;
  std::vector<float> v_, what_, column_, d_;
  std::vector<std::vector<float>> p_;
  std::vector<uint8_t> codes_;
};

}  // namespace

void MakeLevels(const GroupLoopOptions& options, const GroupScales& scales, Levels* out) {
  const bool shift = options.scales == QuantScales::kShift;
  const kernels::ExponentTable table = kernels::DefaultExponentTable(options.q);
  float plane[kMaxPlanes][kLanes];
  for (int i = 0; i < options.q; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) {
      plane[i][lane] = shift ? std::ldexp(1.0f, table.exponents[scales.shift.set[lane]][i])
                             : scales.free.alpha[i][lane];
    }
  }
  out->q = options.q;
  for (int c = 0; c < (1 << options.q); ++c) {
    for (int lane = 0; lane < kLanes; ++lane) {
      float sum = 0.0f;
      for (int i = 0; i < options.q; ++i) {
        sum += ((c >> i) & 1) != 0 ? plane[i][lane] : -plane[i][lane];
      }
      out->unit[c][lane] = sum;
      out->level[c][lane] =
          shift ? scales.shift.s[lane] * sum + scales.shift.z[lane] : sum + scales.free.z[lane];
    }
  }
}

float* ScaleOf(const GroupLoopOptions& options, int unknown, GroupScales* scales) {
  const bool shift = options.scales == QuantScales::kShift;
  if (options.offset && unknown == UnknownsOf(options) - 1) {
    return shift ? scales->shift.z : scales->free.z;
  }
  return shift ? scales->shift.s : scales->free.alpha[unknown];
}

void DesignColumn(const GroupLoopOptions& options, const Levels& levels, const uint8_t* codes,
                  int64_t count, int unknown, float* out) {
  if (options.offset && unknown == UnknownsOf(options) - 1) {
    std::fill_n(out, count * kLanes, 1.0f);
  } else if (options.scales == QuantScales::kShift) {
    for (int64_t j = 0; j < count * kLanes; ++j) out[j] = levels.unit[codes[j]][j % kLanes];
  } else {
    for (int64_t j = 0; j < count * kLanes; ++j) {
      out[j] = ((codes[j] >> unknown) & 1) != 0 ? 1.0f : -1.0f;
    }
  }
}

std::vector<GroupLoopTile> RunGroupLoop(const TileKernels& kernels, const LoopFactor& factor,
                                        const GroupLoopOptions& options, int tiles, float* w,
                                        const GroupLoopObserver* observer) {
  const int64_t k = factor.k, tile_size = k * kLanes;
  int64_t largest = 0;
  for (const LoopFactor::Group& g : factor.groups) largest = std::max(largest, g.size);
  GroupSolver solver(kernels, options, largest);
  std::vector<float> e(tiles * largest * kLanes);
  std::vector<GroupLoopTile> out(tiles);
  for (GroupLoopTile& tile : out) {
    tile.scales.resize(factor.groups.size());
    tile.codes.resize(tile_size);
  }
  for (size_t i = 0; i < factor.groups.size(); ++i) {
    const LoopFactor::Group& g = factor.groups[i];
    for (int t = 0; t < tiles; ++t) {
      solver.Solve(g, w + t * tile_size + g.begin * kLanes, &out[t].scales[i],
                   out[t].codes.data() + g.begin * kLanes, e.data() + t * largest * kLanes,
                   observer, static_cast<int64_t>(i));
    }
    SubtractProduct(kernels, factor.u, g.begin, g.size, g.begin + g.size, k, tiles, e.data(),
                    largest * kLanes, w, tile_size);
  }
  return out;
}

}  // namespace shiftadd::quantize
