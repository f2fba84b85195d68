#include "worker/quantize/sweep.h"

#include <algorithm>

#include "worker/quantize/small_solve.h"
#include "worker/quantize/tile_product.h"

namespace shiftadd::quantize {
namespace {

constexpr double kJointRidge = 1e-6;

class Sweeper {
 public:
  Sweeper(const TileKernels& kernels, const LoopFactor& factor, const GroupLoopOptions& options,
          const float* original, std::vector<GroupLoopTile>* tiles)
      : kernels_(kernels),
        factor_(factor),
        options_(options),
        original_(original),
        tiles_(*tiles),
        count_(static_cast<int>(tiles->size())),
        stride_(factor.k * kLanes),
        unknowns_(UnknownsOf(options)),
        levels_(tiles->size()),
        what_(count_ * stride_),
        residual_(count_ * stride_),
        scratch_(count_ * stride_) {}

  // R = (W - What) H, afresh.
  void Measure() {
    for (int t = 0; t < count_; ++t) {
      for (size_t g = 0; g < factor_.groups.size(); ++g) {
        const LoopFactor::Group& group = factor_.groups[g];
        MakeLevels(options_, tiles_[t].scales[g], &levels_[t]);
        for (int64_t i = group.begin * kLanes; i < (group.begin + group.size) * kLanes; ++i) {
          what_[t * stride_ + i] = levels_[t].level[tiles_[t].codes[i]][i % kLanes];
        }
      }
    }
    for (int64_t i = 0; i < count_ * stride_; ++i) scratch_[i] = what_[i] - original_[i];
    std::fill(residual_.begin(), residual_.end(), 0.0f);
    SubtractProduct(kernels_, factor_.h, 0, factor_.k, 0, factor_.k, count_, scratch_.data(),
                    stride_, residual_.data(), stride_);
  }

  // One coordinate at a time takes its best level, all others as they are.
  void Descend() {
    for (size_t g = 0; g < factor_.groups.size(); ++g) {
      const LoopFactor::Group& group = factor_.groups[g];
      const int64_t end = group.begin + group.size;
      for (int t = 0; t < count_; ++t) MakeLevels(options_, tiles_[t].scales[g], &levels_[t]);
      // In pieces of a panel of H: other inputs' residuals are brought up to date once a piece.
      for (int64_t begin = group.begin, next; begin < end; begin = next) {
        next = std::min(factor_.h.PanelEnd(begin), end);
        DescendPiece(begin, next);
      }
    }
  }

  // All scales of a row at once, the codes as they are.
  void Refit() {
    design_.resize(count_ * unknowns_ * stride_);
    for (size_t g = 0; g < factor_.groups.size(); ++g) {
      const LoopFactor::Group& group = factor_.groups[g];
      for (int t = 0; t < count_; ++t) {
        MakeLevels(options_, tiles_[t].scales[g], &levels_[t]);
        for (int i = 0; i < unknowns_; ++i) {
          DesignColumn(options_, levels_[t], tiles_[t].codes.data() + group.begin * kLanes,
                       group.size, i, Design(t, i) + group.begin * kLanes);
        }
      }
    }
    const int64_t total = unknowns_ * static_cast<int64_t>(factor_.groups.size());
    gram_.resize(count_ * total * total * kLanes);
    rhs_.resize(count_ * total * kLanes);
    for (int64_t u = 0; u < total; ++u) FillEquation(u, total);
    std::vector<double> a(total * total), x(total);
    for (int t = 0; t < count_; ++t) {
      for (int lane = 0; lane < kLanes; ++lane) Solve(t, lane, total, a.data(), x.data());
    }
  }

 private:
  float* Design(int t, int unknown) { return design_.data() + (t * unknowns_ + unknown) * stride_; }

  void DescendPiece(int64_t begin, int64_t end) {
    float* moved = scratch_.data();  // What' - What of the piece
    for (int t = 0; t < count_; ++t) {
      const int64_t at = t * stride_ + begin * kLanes;
      kernels_.descend(residual_.data() + at, end - begin, levels_[t], factor_.h.from(begin, begin),
                       PanelMatrix::kColumns, what_.data() + at,
                       tiles_[t].codes.data() + begin * kLanes, moved + at);
    }
    const auto update = [&](int64_t from, int64_t to) {
      SubtractProduct(kernels_, factor_.h, begin, end - begin, from, to, count_,
                      moved + begin * kLanes, stride_, residual_.data(), stride_);
    };
    update(0, begin);
    update(end, factor_.k);
  }

  // Row u of every tile's normal equations, up to the diagonal: unknown u is scale u % unknowns_ of
  // group u / unknowns_.
  void FillEquation(int64_t u, int64_t total) {
    const LoopFactor::Group& group = factor_.groups[u / unknowns_];
    const int i = static_cast<int>(u % unknowns_);
    const int64_t end = group.begin + group.size;
    for (int t = 0; t < count_; ++t) {
      std::fill_n(scratch_.begin() + t * stride_, end * kLanes, 0.0f);
    }
    // Minus the column of the design matrix times H, as far as there are earlier unknowns.
    SubtractProduct(kernels_, factor_.h, group.begin, group.size, 0, end, count_,
                    Design(0, i) + group.begin * kLanes, unknowns_ * stride_, scratch_.data(),
                    stride_);
    for (int t = 0; t < count_; ++t) {
      for (int64_t v = 0; v <= u; ++v) {
        const LoopFactor::Group& other = factor_.groups[v / unknowns_];
        const int64_t at = other.begin * kLanes;
        kernels_.dot(Design(t, static_cast<int>(v % unknowns_)) + at,
                     scratch_.data() + t * stride_ + at, other.size,
                     gram_.data() + ((t * total + u) * total + v) * kLanes);
      }
      const int64_t at = group.begin * kLanes;
      kernels_.dot(Design(t, i) + at, residual_.data() + t * stride_ + at, group.size,
                   rhs_.data() + (t * total + u) * kLanes);
    }
  }

  void Solve(int t, int lane, int64_t total, double* a, double* x) {
    const float* gram = gram_.data() + t * total * total * kLanes + lane;
    double diagonal = 0.0;
    for (int64_t u = 0; u < total; ++u) {
      x[u] = rhs_[(t * total + u) * kLanes + lane];
      for (int64_t v = 0; v <= u; ++v) {
        a[u * total + v] = -static_cast<double>(gram[(u * total + v) * kLanes]);
      }
      diagonal += a[u * (total + 1)];
    }
    const double ridge = kJointRidge * diagonal / static_cast<double>(total);
    for (int64_t u = 0; u < total; ++u) a[u * (total + 1)] += ridge;
    SolveSpd(static_cast<int>(total), a, x);  // zeros if it fails
    for (int64_t u = 0; u < total; ++u) {
      GroupScales& scales = tiles_[t].scales[u / unknowns_];
      ScaleOf(options_, static_cast<int>(u % unknowns_), &scales)[lane] += static_cast<float>(x[u]);
    }
  }

  const TileKernels& kernels_;
  const LoopFactor& factor_;
  const GroupLoopOptions options_;
  const float* const original_;
  std::vector<GroupLoopTile>& tiles_;
  const int count_;                               // of tiles
  const int64_t stride_;                          // floats of a tile
  const int unknowns_;                            // a group
  std::vector<Levels> levels_;                    // of each tile, for the group at hand
  std::vector<float> what_, residual_, scratch_;  // [tiles][k][16]
  std::vector<float> design_;  // [tiles][unknowns][k][16]: what each scale is multiplied with
  std::vector<float> gram_, rhs_;
};

}  // namespace

void RunSweeps(const TileKernels& kernels, const LoopFactor& factor,
               const GroupLoopOptions& options, int sweeps, const float* original,
               std::vector<GroupLoopTile>* tiles, const SweepObserver* observer) {
  Sweeper sweeper(kernels, factor, options, original, tiles);
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    sweeper.Measure();
    sweeper.Descend();
    if (observer != nullptr) (*observer)(sweep, /*refit=*/false, *tiles);
    sweeper.Refit();
    if (observer != nullptr) (*observer)(sweep, /*refit=*/true, *tiles);
  }
}

}  // namespace shiftadd::quantize
