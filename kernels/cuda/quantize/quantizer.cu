// The host side: checks, the workspace, and the order of the launches. Groups come in blocks of up
// to 512 inputs: inside a block every group gets what the groups before it changed from one small
// product, and all other inputs get the whole block's change from one large product. Groups of more
// than 128 inputs are gone through in pieces (long_groups.h).
#include <algorithm>
#include <vector>

#include "kernels/cuda/quantize/arena.h"
#include "kernels/cuda/quantize/checks.h"
#include "kernels/cuda/quantize/launches.h"
#include "kernels/cuda/quantize/long_groups.h"
#include "kernels/cuda_quantize.h"

namespace shiftadd::kernels {
namespace quantize {
namespace {

int64_t RoundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

CudaStatus CheckFit(const CudaQuantizeRecipe& recipe, const CudaGroupFit& fit,
                    const std::string& name) {
  CudaStatus s = CheckRange(fit.q, 1, 8, name + ".q");
  if (s.ok()) s = CheckRange(fit.n, 1, kMaxRows, name + ".n");
  if (s.ok()) s = CheckRange(fit.size, 1, recipe.group, name + ".size");
  if (s.ok()) s = CheckRange(fit.groups, 1, kMaxInputs, name + ".groups");
  if (s.ok()) s = CheckRange(fit.ldw, fit.size, INT64_MAX, name + ".ldw");
  if (s.ok()) s = CheckRange(fit.ldu, fit.size, INT64_MAX, name + ".ldu");
  if (s.ok()) s = CheckRange(fit.ldr, fit.size, INT64_MAX, name + ".ldr");
  if (s.ok()) s = CheckRange(fit.ldcodes, fit.size, INT64_MAX, name + ".ldcodes");
  if (s.ok()) s = CheckPointer(fit.w, 4, name + ".w");
  if (s.ok()) s = CheckPointer(fit.u, 4, name + ".u");
  if (s.ok()) s = CheckPointer(fit.r, 4, name + ".r");
  if (s.ok()) s = CheckPointer(fit.codes, 1, name + ".codes");
  if (s.ok()) s = CheckPointer(fit.scale, 4, name + ".scale");
  if (s.ok() && !recipe.free_scales) s = CheckPointer(fit.set, 1, name + ".set");
  if (s.ok() && recipe.offset) s = CheckPointer(fit.offset, 4, name + ".offset");
  if (s.ok() && fit.loss != nullptr) s = CheckPointer(fit.loss, 4, name + ".loss");
  if (!s.ok() || (fit.e_hi == nullptr && fit.e_lo == nullptr && fit.e_scale == nullptr)) return s;
  s = CheckPointer(fit.e_hi, 2, name + ".e_hi");
  if (s.ok()) s = CheckPointer(fit.e_lo, 2, name + ".e_lo");
  if (s.ok()) s = CheckPointer(fit.e_scale, 4, name + ".e_scale");
  if (s.ok()) s = CheckRange(fit.lde, fit.size, INT64_MAX, name + ".lde");
  if (s.ok()) s = CheckRange(fit.lde_scale, (fit.size + 31) / 32, INT64_MAX, name + ".lde_scale");
  return s;
}

CudaStatus CheckProblem(const CudaLayerProblem& problem) {
  CudaStatus s = CheckRange(problem.n, 1, kMaxRows, "problem.n");
  if (s.ok()) s = CheckRange(problem.k, 1, kMaxInputs, "problem.k");
  if (s.ok()) s = CheckPointer(problem.w, 4, "problem.w");
  if (s.ok()) s = CheckPointer(problem.u, 4, "problem.u");
  if (s.ok()) s = CheckPointer(problem.r, 4, "problem.r");
  if (s.ok()) s = CheckPointer(problem.h, 4, "problem.h");
  return s;
}

CudaStatus CheckWidth(const CudaQuantizeRecipe& recipe, const CudaLayerCodes& width,
                      const std::string& name) {
  CudaStatus s = CheckRange(width.q, 1, 8, name + ".q");
  if (s.ok()) s = CheckPointer(width.codes, 1, name + ".codes");
  if (s.ok()) s = CheckPointer(width.scale, 4, name + ".scale");
  if (s.ok() && !recipe.free_scales) s = CheckPointer(width.set, 1, name + ".set");
  if (s.ok() && recipe.offset) s = CheckPointer(width.offset, 4, name + ".offset");
  if (s.ok() && width.loss != nullptr) s = CheckPointer(width.loss, 4, name + ".loss");
  return s;
}

class LayerQuantizer : public CudaLayerQuantizer {
 public:
  LayerQuantizer(const CudaQuantizeRecipe& recipe, const CudaLayerProblem& problem,
                 const CudaLayerCodes* widths, int count, cudaStream_t stream)
      : recipe_(recipe),
        problem_(problem),
        stream_(stream),
        groups_((problem.k + recipe.group - 1) / recipe.group),
        long_(recipe.group > kPieceInputs),
        piece_(std::min(recipe.group, kPieceInputs)),
        block_(kBlockInputs / piece_ * piece_),
        ld_(RoundUp(problem.k, 128)),
        arena_(stream),
        long_groups_(recipe, problem, stream) {
    for (int i = 0; i < count; ++i) {
      WidthWork width;
      WidthState& s = width.state;
      s.q = widths[i].q;
      s.n = problem.n;
      s.k = problem.k;
      s.group = recipe.group;
      s.groups = groups_;
      s.free_scales = recipe.free_scales;
      s.has_offset = recipe.offset;
      s.codes = widths[i].codes;
      s.scale = widths[i].scale;
      s.set = widths[i].set;
      s.offset = widths[i].offset;
      s.w = problem.w;
      s.loss = widths[i].loss;
      s.units = MakePlaneUnits(s.q);
      widths_.push_back(width);
    }
  }

  CudaStatus Prepare() {
    const int64_t n = problem_.n, k = problem_.k;
    arena_.Get(4, &factors_);
    arena_.Get(2, &largest_);
    arena_.GetSplit(k, ld_, &u_);
    arena_.GetSplit(k, ld_, &h_);
    for (WidthWork& width : widths_) {
      arena_.Get(n * k, &width.state.residual);
      arena_.Get(n * piece_, &width.part);
      arena_.GetSplit(n, block_, &width.change);
      arena_.Get(n * block_ / 32, &width.change_factor);
      arena_.GetSplit(n, ld_, &width.error);
      arena_.Get(n * ld_ / 32, &width.error_factor);
    }
    PrepareRefit();
    if (long_) {
      arena_.Get(ld_ / 32, &ones_);
      long_groups_.Prepare(widths_, u_, u_factor(), ones_, &arena_);
    }
    if (CudaStatus status = arena_.status(); !status.ok()) return status;
    // Inputs beyond a short last group meet zeros of H, but must be numbers.
    for (WidthWork& width : widths_) {
      for (__half* half : {width.change.hi, width.change.lo}) {
        const cudaError_t error = cudaMemsetAsync(half, 0, n * block_ * sizeof *half, stream_);
        if (error != cudaSuccess) return ToStatus(error, "clearing the workspace");
      }
    }
    cudaError_t error = LaunchLargest(problem_.u, k * k, largest_, stream_);
    if (error == cudaSuccess) error = LaunchLargest(problem_.h, k * k, largest_ + 1, stream_);
    if (error == cudaSuccess) {
      error = LaunchSplitSquare(problem_.u, k, true, largest_, u_, u_factor(), stream_);
    }
    if (error == cudaSuccess) {
      error = LaunchSplitSquare(problem_.h, k, false, largest_ + 1, h_, h_factor(), stream_);
    }
    if (error == cudaSuccess && long_) error = LaunchFill(ones_, ld_ / 32, 1.0f, stream_);
    return ToStatus(error, "splitting H and U");
  }

  CudaStatus GroupLoop() override {
    const int64_t n = problem_.n, k = problem_.k;
    for (WidthWork& width : widths_) {
      cudaError_t error = cudaMemcpyAsync(width.state.residual, problem_.w, n * k * sizeof(float),
                                          cudaMemcpyDeviceToDevice, stream_);
      if (error == cudaSuccess && width.state.loss != nullptr) {
        error = cudaMemsetAsync(width.state.loss, 0, n * sizeof(float), stream_);
      }
      if (error != cudaSuccess) return ToStatus(error, "group loop: start");
    }
    for (int64_t g = 0; long_ && g < groups_; ++g) {
      const cudaError_t error = long_groups_.Fit(g);
      if (error != cudaSuccess) return ToStatus(error, "group loop");
    }
    for (int64_t block = 0; !long_ && block < k; block += block_) {
      const int64_t end = std::min(block + block_, k);
      for (int64_t begin = block; begin < end; begin += recipe_.group) {
        const int64_t size = std::min(recipe_.group, k - begin);
        cudaError_t error = Bring(u_, u_factor(), block, begin, size);
        if (error == cudaSuccess) error = Fit(block, begin, size);
        if (error != cudaSuccess) return ToStatus(error, "group loop");
      }
      const cudaError_t error = Spread(u_, u_factor(), block, end, end);
      if (error != cudaSuccess) return ToStatus(error, "group loop: feedback");
    }
    return {};
  }

  CudaStatus Descend() override {
    cudaError_t error = cudaSuccess;
    SplitProduct products[kProductsPerLaunch];
    for (size_t i = 0; i < widths_.size() && error == cudaSuccess; ++i) {
      WidthWork& width = widths_[i];
      error = LaunchErrors(width.state, width.error, width.error_factor, ld_ / 32, stream_);
      SplitProduct& p = products[i];
      p = Product(width, h_, h_factor());
      p.columns = p.inner = problem_.k;
      p.a = width.error;
      p.a_factor = width.error_factor;
      p.ld_factor = ld_ / 32;
      p.out = width.state.residual;
      p.ld_out = problem_.k;
      p.sign = 1.0f;
    }
    if (error == cudaSuccess) {
      error = LaunchProducts(products, static_cast<int>(widths_.size()), stream_);
    }
    if (error != cudaSuccess) return ToStatus(error, "coordinate descent: residual");
    for (int64_t block = 0; block < problem_.k; block += block_) {
      const int64_t end = std::min(block + block_, problem_.k);
      for (int64_t begin = block, size; begin < end; begin += size) {
        const int64_t group_end = (begin / recipe_.group + 1) * recipe_.group;
        size = std::min({begin + piece_, group_end, end}) - begin;
        error = Bring(h_, h_factor(), block, begin, size);
        if (error == cudaSuccess) error = DescendGroup(block, begin, size);
        if (error != cudaSuccess) return ToStatus(error, "coordinate descent");
      }
      error = Spread(h_, h_factor(), block, end, 0);
      if (error != cudaSuccess) return ToStatus(error, "coordinate descent: residual");
    }
    return {};
  }

  CudaStatus Refit(bool last) override {
    for (WidthWork& width : widths_) {
      RefitWork work = refit_;
      work.state = width.state;
      work.round_to_half = last && recipe_.half_scales;
      for (int64_t first = 0; first < problem_.n; first += refit_.rows) {
        work.first = first;
        work.rows = std::min(refit_.rows, problem_.n - first);
        cudaError_t error = LaunchDesign(work, stream_);
        if (error == cudaSuccess) error = long_ ? LongGram(work) : LaunchGram(work, stream_);
        if (error == cudaSuccess) error = LaunchSolve(work, stream_);
        if (error != cudaSuccess) return ToStatus(error, "joint refit");
      }
    }
    return {};
  }

  CudaStatus Run() override {
    CudaStatus status = GroupLoop();
    for (int i = 0; i < recipe_.sweeps && status.ok(); ++i) {
      status = Descend();
      if (status.ok()) status = Refit(i + 1 == recipe_.sweeps);
    }
    return status;
  }

 private:
  float* u_factor() const { return factors_; }
  float* h_factor() const { return factors_ + 1; }

  void PrepareRefit() {
    int64_t unknowns = 1;
    for (const WidthWork& width : widths_) {
      unknowns = std::max<int64_t>(unknowns, width.state.unknowns());
    }
    const int64_t m = groups_ * unknowns;
    const int64_t scratch = m > kSharedUnknowns ? m * (m + 1) / 2 : 0;
    const int64_t products = long_ ? problem_.k : 0;
    const int64_t bytes = unknowns * ld_ * 2 + m * m * 4 + m * 4 + 4 + scratch * 8 + products * 4;
    refit_.rows = std::min(problem_.n, std::max<int64_t>(kPartBytes / bytes / 128 * 128, 128));
    refit_.ld = ld_;
    refit_.h = h_;
    refit_.h_factor = h_factor();
    arena_.Get(refit_.rows * unknowns * ld_, &refit_.design);
    arena_.Get(refit_.rows * m * m, &refit_.gram);
    arena_.Get(refit_.rows * m, &refit_.rhs);
    arena_.Get(refit_.rows, &refit_.loss);
    if (scratch > 0) arena_.Get(refit_.rows * scratch, &refit_.scratch);
    if (products > 0) arena_.Get(refit_.rows * products, &gram_row_);
  }

  // Phi^T H Phi, one unknown's row of it at a time.
  cudaError_t LongGram(const RefitWork& work) {
    const int unknowns = work.state.unknowns();
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t begin = g * recipe_.group, end = std::min(begin + recipe_.group, problem_.k);
      for (int u = 0; u < unknowns; ++u) {
        SplitProduct p;
        p.n = work.rows;
        p.columns = end;
        p.inner = end - begin;
        p.a = {work.design + u * work.rows * work.ld + begin, nullptr, work.ld};
        p.a_factor = ones_;
        p.b = At(h_, 0, begin);
        p.b_factor = h_factor();
        p.out = gram_row_;
        p.ld_out = problem_.k;
        cudaError_t error = LaunchProducts(&p, 1, stream_);
        if (error == cudaSuccess) error = LaunchGramRow(work, g, u, gram_row_, stream_);
        if (error != cudaSuccess) return error;
      }
    }
    return cudaSuccess;
  }

  SplitProduct Product(const WidthWork& width, const SplitMatrix& b, const float* factor) const {
    SplitProduct p;
    p.n = problem_.n;
    p.a = width.change;
    p.a_factor = width.change_factor;
    p.ld_factor = block_ / 32;
    // What a descent changes with shift scales is exact without the low half.
    if (b.hi == h_.hi && !recipe_.free_scales) p.a.lo = nullptr;
    p.b = b;
    p.b_factor = factor;
    p.sign = -1.0f;
    return p;
  }
  static SplitMatrix At(const SplitMatrix& m, int64_t row, int64_t column) {
    return {m.hi + row * m.ld + column, m.lo + row * m.ld + column, m.ld};
  }

  // Inputs [begin, begin + size), with the change of the block's groups before them, to `part`.
  cudaError_t Bring(const SplitMatrix& b, const float* factor, int64_t block, int64_t begin,
                    int64_t size) {
    if (begin == block) return cudaSuccess;  // read in place
    SplitProduct products[kProductsPerLaunch];
    for (size_t i = 0; i < widths_.size(); ++i) {
      SplitProduct& p = products[i];
      p = Product(widths_[i], b, factor);
      p.b = At(b, begin, block);
      p.columns = size;
      p.inner = begin - block;
      p.in = widths_[i].state.residual + begin;
      p.ld_in = problem_.k;
      p.out = widths_[i].part;
      p.ld_out = piece_;
    }
    return LaunchProducts(products, static_cast<int>(widths_.size()), stream_);
  }

  // The change of the block [block, end) to inputs [first, k).
  cudaError_t Spread(const SplitMatrix& b, const float* factor, int64_t block, int64_t end,
                     int64_t first) {
    SplitProduct products[kProductsPerLaunch];
    for (size_t i = 0; i < widths_.size(); ++i) {
      SplitProduct& p = products[i];
      p = Product(widths_[i], b, factor);
      p.b = At(b, first, block);
      p.columns = problem_.k - first;
      p.inner = end - block;
      p.in = p.out = widths_[i].state.residual + first;
      p.ld_in = p.ld_out = problem_.k;
    }
    return LaunchProducts(products, static_cast<int>(widths_.size()), stream_);
  }

  cudaError_t Fit(int64_t block, int64_t begin, int64_t size) {
    CudaGroupFit fits[kMaxCudaWidths];
    for (size_t i = 0; i < widths_.size(); ++i) {
      const WidthWork& width = widths_[i];
      const WidthState& s = width.state;
      const int64_t g = begin / recipe_.group;
      CudaGroupFit& fit = fits[i];
      fit.q = s.q;
      fit.n = problem_.n;
      fit.size = size;
      fit.w = begin == block ? s.residual + begin : width.part;
      fit.ldw = begin == block ? problem_.k : recipe_.group;
      fit.u = problem_.u + begin * problem_.k + begin;
      fit.ldu = problem_.k;
      fit.r = problem_.r + g * recipe_.group * recipe_.group;
      fit.ldr = recipe_.group;
      fit.codes = s.codes + begin;
      fit.ldcodes = problem_.k;
      fit.groups = groups_;
      fit.scale = s.scale + g * (s.free_scales ? s.q : 1);
      if (!s.free_scales) fit.set = s.set + g;
      if (s.has_offset) fit.offset = s.offset + g;
      fit.loss = s.loss;
      if (begin + size == problem_.k) continue;  // nothing comes after it
      fit.e_hi = width.change.hi + begin - block;
      fit.e_lo = width.change.lo + begin - block;
      fit.lde = block_;
      fit.e_scale = width.change_factor + (begin - block) / 32;
      fit.lde_scale = block_ / 32;
    }
    return LaunchGroupFits(recipe_, fits, static_cast<int>(widths_.size()), stream_);
  }

  cudaError_t DescendGroup(int64_t block, int64_t begin, int64_t size) {
    GroupDescent descents[kMaxCudaWidths];
    for (size_t i = 0; i < widths_.size(); ++i) {
      const WidthWork& width = widths_[i];
      const WidthState& s = width.state;
      const int64_t g = begin / recipe_.group;
      GroupDescent& d = descents[i];
      d.q = s.q;
      d.n = problem_.n;
      d.size = size;
      d.residual = begin == block ? s.residual + begin : width.part;
      d.ld = begin == block ? problem_.k : piece_;
      d.h = problem_.h + begin * problem_.k + begin;
      d.ldh = problem_.k;
      d.codes = s.codes + begin;
      d.ldcodes = problem_.k;
      d.groups = groups_;
      d.scale = s.scale + g * (s.free_scales ? s.q : 1);
      if (!s.free_scales) d.set = s.set + g;
      if (s.has_offset) d.offset = s.offset + g;
      d.delta_hi = width.change.hi + begin - block;
      d.delta_lo = width.change.lo + begin - block;
      d.ldd = block_;
      d.delta_factor = width.change_factor + (begin - block) / 32;
      d.ld_factor = block_ / 32;
    }
    return LaunchDescents(recipe_.free_scales, descents, static_cast<int>(widths_.size()), stream_);
  }

  const CudaQuantizeRecipe recipe_;
  const CudaLayerProblem problem_;
  const cudaStream_t stream_;
  const int64_t groups_;
  const bool long_;      // groups are
  const int64_t piece_;  // inputs that one launch goes along: a group, or part of a long one
  const int64_t block_;  // inputs a block
  const int64_t ld_;     // of fp16 matrices over all inputs
  std::vector<WidthWork> widths_;
  Arena arena_;
  float* factors_ = nullptr;
  uint32_t* largest_ = nullptr;
  SplitMatrix u_, h_;  // U transposed
  RefitWork refit_;
  LongGroups long_groups_;
  float* ones_ = nullptr;      // [ld_ / 32], with long groups
  float* gram_row_ = nullptr;  // [refit_.rows][k], with long groups
};

}  // namespace
}  // namespace quantize

CudaStatus CudaFitGroups(const CudaQuantizeRecipe& recipe, const CudaGroupFit* fits, int count,
                         CudaStream stream) {
  CudaStatus status = quantize::CheckRecipe(recipe);
  if (status.ok()) {
    status = quantize::CheckRange(recipe.group, 32, quantize::kPieceInputs, "recipe.group");
  }
  if (status.ok()) status = quantize::CheckRange(count, 0, 1 << 20, "count");
  if (status.ok() && count > 0 && fits == nullptr) status = quantize::Invalid("fits: found null");
  if (status.ok()) status = quantize::CheckDevice();
  for (int i = 0; i < count && status.ok(); ++i) {
    status = quantize::CheckFit(recipe, fits[i], "fits[" + std::to_string(i) + "]");
  }
  if (!status.ok()) return status;
  return quantize::ToStatus(
      quantize::LaunchGroupFits(recipe, fits, count, static_cast<cudaStream_t>(stream)),
      "group fits");
}

CudaStatus CudaLayerQuantizer::Create(const CudaQuantizeRecipe& recipe,
                                      const CudaLayerProblem& problem, const CudaLayerCodes* widths,
                                      int count, CudaStream stream,
                                      std::unique_ptr<CudaLayerQuantizer>* out) {
  CudaStatus status = quantize::CheckRecipe(recipe);
  if (status.ok()) status = quantize::CheckRange(count, 1, kMaxCudaWidths, "count");
  if (status.ok() && widths == nullptr) status = quantize::Invalid("widths: found null");
  if (status.ok()) status = quantize::CheckDevice();
  if (status.ok()) status = quantize::CheckProblem(problem);
  for (int i = 0; i < count && status.ok(); ++i) {
    status = quantize::CheckWidth(recipe, widths[i], "widths[" + std::to_string(i) + "]");
  }
  if (!status.ok()) return status;
  auto quantizer = std::make_unique<quantize::LayerQuantizer>(recipe, problem, widths, count,
                                                              static_cast<cudaStream_t>(stream));
  status = quantizer->Prepare();
  if (status.ok()) *out = std::move(quantizer);
  return status;
}

}  // namespace shiftadd::kernels
