#include <algorithm>
#include <tuple>
#include <utility>

#include "kernels/cuda/quantize/long_groups.h"

namespace shiftadd::kernels::quantize {
namespace {

SplitMatrix At(const SplitMatrix& m, int64_t row, int64_t column) {
  return {m.hi + row * m.ld + column, m.lo + row * m.ld + column, m.ld};
}

}  // namespace

LongGroups::LongGroups(const CudaQuantizeRecipe& recipe, const CudaLayerProblem& problem,
                       cudaStream_t stream)
    : recipe_(recipe),
      problem_(problem),
      stream_(stream),
      groups_((problem.k + recipe.group - 1) / recipe.group),
      ld_((recipe.group + 127) / 128 * 128) {}

void LongGroups::Prepare(std::vector<WidthWork> widths, const SplitMatrix& u, const float* u_factor,
                         const float* ones, Arena* arena) {
  widths_ = std::move(widths);
  u_ = u;
  u_factor_ = u_factor;
  ones_ = ones;
  const int64_t group = recipe_.group;
  arena->GetSplit(group, ld_, &r_);
  arena->Get(1, &r_factor_);
  arena->Get(1, &largest_);
  arena->Get(group, &omega_);
  arena->Get(group, &r_sum_);
  int64_t bytes = 0;  // a row
  for (const WidthWork& width : widths_) {
    const int64_t planes = recipe_.free_scales ? width.state.q : 1;
    bytes += group * 4 + planes * (group * 4 + ld_ * 2 + 4) + group + 9;
  }
  rows_ = std::min(problem_.n, std::max(kPartBytes / bytes / 128 * 128, int64_t{128}));
  for (const WidthWork& width : widths_) {
    LongFit& fit = fits_.emplace_back();
    fit.now = width.state;
    fit.now.groups = 1;
    const int64_t planes = fit.planes();
    arena->Get(rows_ * group, &fit.now.codes);
    arena->Get(rows_ * planes, &fit.now.scale);
    arena->Get(rows_, &fit.now.set);
    arena->Get(rows_, &fit.now.offset);
    arena->Get(rows_, &fit.best_loss);
    arena->Get(rows_ * group, &fit.d);
    arena->Get(planes * rows_ * group, &fit.p);
    arena->Get(planes * rows_ * ld_, &fit.design);
    fit.ld_now = group;
    fit.ld_design = ld_;
    fit.omega = omega_;
    fit.ones = r_sum_;
    fit.ld_best = fit.ldw = problem_.k;
  }
}

cudaError_t LongGroups::Fit(int64_t g) {
  Part part = {};
  part.begin = g * recipe_.group;
  part.size = std::min(recipe_.group, problem_.k - part.begin);
  const int64_t square = recipe_.group * recipe_.group;
  const float* r = problem_.r + g * square;
  cudaError_t error = LaunchLargest(r, square, largest_, stream_);
  if (error == cudaSuccess) {
    error = LaunchSplitSquare(r, recipe_.group, true, largest_, r_, r_factor_, stream_);
  }
  if (error == cudaSuccess) {
    error = LaunchLongMetric(r, recipe_.group, part.size, omega_, r_sum_, stream_);
  }
  for (part.first = 0; part.first < problem_.n && error == cudaSuccess; part.first += rows_) {
    part.rows = std::min(rows_, problem_.n - part.first);
    for (size_t i = 0; i < widths_.size(); ++i) {
      const WidthWork& width = widths_[i];
      LongFit& fit = fits_[i];
      fit.now.n = part.rows;
      fit.now.k = fit.now.group = part.size;
      const WidthState& whole = width.state;
      const int64_t at = part.first * groups_ + g;
      fit.best = fit.now;
      fit.best.groups = groups_;
      fit.best.codes = whole.codes + part.first * problem_.k + part.begin;
      fit.best.scale = whole.scale + at * fit.planes();
      fit.best.set = whole.set == nullptr ? nullptr : whole.set + at;
      fit.best.offset = whole.offset == nullptr ? nullptr : whole.offset + at;
      fit.best.loss = whole.loss == nullptr ? nullptr : whole.loss + part.first;
      fit.w = whole.residual + part.first * problem_.k + part.begin;
      fit.error = At(width.error, part.first, 0);
      fit.ld_factor = width.error.ld / 32;
      fit.error_factor = width.error_factor + part.first * fit.ld_factor;
    }
    error = FitRows(part);
  }
  return error;
}

cudaError_t LongGroups::FitRows(const Part& part) {
  cudaError_t error = cudaSuccess;
  for (const LongFit& fit : fits_) {
    if (error == cudaSuccess) error = LaunchLongStart(fit, recipe_.rounds, stream_);
  }
  for (int t = 0; t < recipe_.inner_rounds && error == cudaSuccess; ++t) {
    error = Round(part);
    if (error == cudaSuccess) error = Measure(part, /*best=*/false);
    for (const LongFit& fit : fits_) {
      if (error != cudaSuccess) break;
      error = LaunchLongRefit(fit, t == 0, t + 1 == recipe_.inner_rounds, stream_);
    }
  }
  if (error == cudaSuccess && part.end() < problem_.k) error = Compensate(part);
  return error;
}

// OPTQ with the scales as they are. The weights as the group's earlier inputs leave them: of its
// first block where all weights are, of later ones in `d`, which has no other use now.
cudaError_t LongGroups::Round(const Part& part) {
  const auto weights = [&](size_t i, int64_t block, int64_t input) -> std::pair<float*, int64_t> {
    const LongFit& fit = fits_[i];
    if (block > part.begin) return {fit.d + (input - part.begin), part.size};
    return {const_cast<float*>(fit.w) + (input - part.begin), fit.ldw};
  };
  for (int64_t block = part.begin; block < part.end(); block += kBlockInputs) {
    const int64_t block_end = std::min(block + kBlockInputs, part.end());
    const auto feedback = [&](int64_t first, int64_t columns, int64_t inner, bool to_part) {
      for (size_t i = 0; i < widths_.size(); ++i) {
        const WidthWork& width = widths_[i];
        SplitProduct& p = Add(part);
        p.columns = columns;
        p.inner = inner;
        p.a = At(width.change, part.first, 0);
        p.ld_factor = width.change.ld / 32;
        p.a_factor = width.change_factor + part.first * p.ld_factor;
        p.b = At(u_, first, block);
        p.b_factor = u_factor_;
        std::tie(p.in, p.ld_in) = weights(i, block, first);
        p.sign = -1.0f;
        p.out =
            to_part ? width.part + part.first * kPieceInputs : fits_[i].d + (first - part.begin);
        p.ld_out = to_part ? kPieceInputs : part.size;
      }
      return Multiply();
    };
    for (int64_t begin = block; begin < block_end; begin += kPieceInputs) {
      const int64_t size = std::min(kPieceInputs, block_end - begin);
      if (begin > block) {
        const cudaError_t error = feedback(begin, size, begin - block, /*to_part=*/true);
        if (error != cudaSuccess) return error;
      }
      GroupRound pieces[kMaxCudaWidths];
      for (size_t i = 0; i < widths_.size(); ++i) {
        const WidthWork& width = widths_[i];
        const LongFit& fit = fits_[i];
        GroupRound& piece = pieces[i];
        piece.q = fit.now.q;
        piece.n = part.rows;
        piece.size = size;
        if (begin > block) {
          piece.w = width.part + part.first * kPieceInputs;
          piece.ldw = kPieceInputs;
        } else {
          std::tie(piece.w, piece.ldw) = weights(i, block, begin);
        }
        piece.u = problem_.u + begin * problem_.k + begin;
        piece.ldu = problem_.k;
        piece.codes = fit.now.codes + (begin - part.begin);
        piece.ldcodes = fit.ld_now;
        piece.scale = fit.now.scale;
        piece.set = fit.now.set;
        if (fit.now.has_offset) piece.offset = fit.now.offset;
        const SplitMatrix change = At(width.change, part.first, begin - block);
        piece.e_hi = change.hi;
        piece.e_lo = change.lo;
        piece.lde = change.ld;
        piece.ld_factor = change.ld / 32;
        piece.e_factor = width.change_factor + part.first * piece.ld_factor + (begin - block) / 32;
      }
      const cudaError_t error =
          LaunchRounds(recipe_.free_scales, pieces, static_cast<int>(widths_.size()), stream_);
      if (error != cudaSuccess) return error;
    }
    if (block_end == part.end()) break;
    const cudaError_t error =
        feedback(block_end, part.end() - block_end, block_end - block, /*to_part=*/false);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// The errors times R_GG, and of the codes that are tried also what each scale is multiplied with.
cudaError_t LongGroups::Measure(const Part& part, bool best) {
  for (const LongFit& fit : fits_) {
    const cudaError_t error = LaunchLongErrors(fit, best, stream_);
    if (error != cudaSuccess) return error;
  }
  // R_GG is upper: the first columns need the first inputs only.
  const auto times_r = [&](const auto& fill) {
    for (int64_t column = 0; column < part.size; column += kBlockInputs) {
      SplitProduct& p = Add(part);
      p.columns = std::min(kBlockInputs, part.size - column);
      p.inner = column + p.columns;
      p.b = At(r_, column, 0);
      p.b_factor = r_factor_;
      p.ld_out = part.size;
      fill(&p);
      p.out += column;
    }
  };
  for (const LongFit& fit : fits_) {
    times_r([&](SplitProduct* p) {
      p->a = fit.error;
      p->a_factor = fit.error_factor;
      p->ld_factor = fit.ld_factor;
      p->out = fit.d;
    });
  }
  const cudaError_t error = Multiply();
  if (error != cudaSuccess || best) return error;
  for (const LongFit& fit : fits_) {
    for (int64_t i = 0; i < fit.planes(); ++i) {
      times_r([&](SplitProduct* p) {
        p->a = {fit.design + i * part.rows * fit.ld_design, nullptr, fit.ld_design};
        p->a_factor = ones_;
        p->out = fit.p + i * part.rows * part.size;
      });
    }
  }
  return Multiply();
}

// All inputs after the group take what it has left.
cudaError_t LongGroups::Compensate(const Part& part) {
  cudaError_t error = Measure(part, /*best=*/true);
  for (size_t i = 0; i < widths_.size() && error == cudaSuccess; ++i) {
    const LongFit& fit = fits_[i];
    error = LaunchLongSplit(fit, stream_);
    SplitProduct& p = Add(part);
    p.columns = problem_.k - part.end();
    p.inner = part.size;
    p.a = fit.error;
    p.a_factor = fit.error_factor;
    p.ld_factor = fit.ld_factor;
    p.b = At(u_, part.end(), part.begin);
    p.b_factor = u_factor_;
    p.in = p.out = widths_[i].state.residual + part.first * problem_.k + part.end();
    p.ld_in = p.ld_out = problem_.k;
    p.sign = -1.0f;
  }
  return error == cudaSuccess ? Multiply() : error;
}

cudaError_t LongGroups::Multiply() {
  cudaError_t error = cudaSuccess;
  const size_t count = products_.size();
  for (size_t i = 0; i < count && error == cudaSuccess; i += kProductsPerLaunch) {
    const size_t together = std::min<size_t>(kProductsPerLaunch, count - i);
    error = LaunchProducts(products_.data() + i, static_cast<int>(together), stream_);
  }
  products_.clear();
  return error;
}

}  // namespace shiftadd::kernels::quantize
