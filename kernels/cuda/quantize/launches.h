// The kernels of the layer quantizer as host functions: each queues one launch and returns what the
// launch said. Arguments are checked by the callers.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_LAUNCHES_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_LAUNCHES_H_

#include <cstdint>

#include "kernels/cuda/quantize/platform.h"
#include "kernels/cuda_quantize.h"

namespace shiftadd::kernels::quantize {

// fp16 pairs: x = (hi + lo) * factor.
struct SplitMatrix {
  __half* hi = nullptr;
  __half* lo = nullptr;
  int64_t ld = 0;  // a multiple of 8
};

// ---- group_fit.cu -------------------------------------------------------------------------------

cudaError_t LaunchGroupFits(const CudaQuantizeRecipe& recipe, const CudaGroupFit* fits, int count,
                            cudaStream_t stream);

// ---- descent.cu ---------------------------------------------------------------------------------

// Coordinate descent in one group of one layer at one width.
struct GroupDescent {
  int q = 0;
  int64_t n = 0, size = 0;
  const float* residual = nullptr;  // [n][size]: (w - w^) H, up to date for this group
  int64_t ld = 0;
  const float* h = nullptr;  // H_GG
  int64_t ldh = 0;
  uint8_t* codes = nullptr;  // [n][size], replaced
  int64_t ldcodes = 0;
  int64_t groups = 1;  // row strides of the three below
  const float* scale = nullptr;
  const uint8_t* set = nullptr;
  const float* offset = nullptr;
  // The change of the weights as fp16 pairs; one factor for 32 inputs of a row. Shift scales: hi
  // alone, exactly, with the scale as its factor.
  __half *delta_hi = nullptr, *delta_lo = nullptr;
  int64_t ldd = 0;
  float* delta_factor = nullptr;
  int64_t ld_factor = 0;
};
cudaError_t LaunchDescents(bool free_scales, const GroupDescent* groups, int count,
                           cudaStream_t stream);

// ---- split_gemm.cu ------------------------------------------------------------------------------

// out[i][c] = in[i][c] + sign * sum_t a[i][t] b[c][t] for i < n, c < columns, t < inner. a's row i
// has the factor a_factor[i][t / 32], b one factor (device). `in` may be null (zero) or `out`; a.lo
// may be null (zero), in all products of a launch or none.
struct SplitProduct {
  int64_t n = 0, columns = 0, inner = 0;
  SplitMatrix a, b;
  const float* a_factor = nullptr;
  int64_t ld_factor = 0;
  const float* b_factor = nullptr;
  const float* in = nullptr;
  int64_t ld_in = 0;
  float* out = nullptr;
  int64_t ld_out = 0;
  float sign = 1.0f;
};
inline constexpr int kProductsPerLaunch = kMaxCudaWidths;
cudaError_t LaunchProducts(const SplitProduct* products, int count, cudaStream_t stream);

// ---- elementwise.cu -----------------------------------------------------------------------------

// *largest (zeroed by this) = the largest |x| as float bits, of a [rows][k] matrix.
cudaError_t LaunchLargest(const float* x, int64_t count, uint32_t* largest, cudaStream_t stream);
// Splits a [k][k] matrix, transposed if asked, with the one power of two that *largest gives; that
// factor goes to `factor`. Columns k.. of `out` (up to its ld) become 0.
cudaError_t LaunchSplitSquare(const float* x, int64_t k, bool transpose, const uint32_t* largest,
                              const SplitMatrix& out, float* factor, cudaStream_t stream);

// out[0 … count) = value.
cudaError_t LaunchFill(float* out, int64_t count, float value, cudaStream_t stream);

struct PlaneUnits {
  float set[8][8] = {};
};
PlaneUnits MakePlaneUnits(int q);

// A layer at one width as the elementwise kernels and the refit see it.
struct WidthState {
  int q = 0;
  int64_t n = 0, k = 0, group = 0, groups = 0;
  bool free_scales = false, has_offset = false;
  uint8_t* codes = nullptr;   // [n][k]
  float* scale = nullptr;     // [n][groups] or [n][groups][q]
  uint8_t* set = nullptr;     // [n][groups]
  float* offset = nullptr;    // [n][groups] or null
  const float* w = nullptr;   // [n][k]
  float* residual = nullptr;  // [n][k]
  float* loss = nullptr;      // [n] or null
  PlaneUnits units;           // shift: 2^e_i of each exponent set

  __host__ __device__ int unknowns() const { return (free_scales ? q : 1) + (has_offset ? 1 : 0); }
};
// (w - w^) of all inputs as fp16 pairs, a factor for every 32 inputs of a row; columns k.. become
// 0.
cudaError_t LaunchErrors(const WidthState& state, const SplitMatrix& out, float* factor,
                         int64_t ld_factor, cudaStream_t stream);

// ---- refit.cu -----------------------------------------------------------------------------------

// Rows [first, first + rows) of a layer at one width. m = groups * unknowns; unknown u of group g
// is number g * unknowns + u.
struct RefitWork {
  WidthState state;
  int64_t first = 0, rows = 0;
  __half* design = nullptr;  // [unknowns][rows][ld]: what each unknown is multiplied with
  int64_t ld = 0;
  float* gram = nullptr;      // [rows][m][m], lower
  float* rhs = nullptr;       // [rows][m]
  float* loss = nullptr;      // [rows]: before the refit
  double* scratch = nullptr;  // [rows][m (m + 1) / 2] if m > kSharedUnknowns
  SplitMatrix h;              // [k][k]
  const float* h_factor = nullptr;
  bool round_to_half = false;
};
inline constexpr int kSharedUnknowns = 232;  // of a system that fits in shared memory
cudaError_t LaunchDesign(const RefitWork& work, cudaStream_t stream);
cudaError_t LaunchGram(const RefitWork& work, cudaStream_t stream);
cudaError_t LaunchSolve(const RefitWork& work, cudaStream_t stream);
// Groups of more than 128 inputs instead of LaunchGram: the products of `y` [rows][k], which is
// unknown u of group g times H as far as the end of g, with all unknowns of the groups up to g.
cudaError_t LaunchGramRow(const RefitWork& work, int64_t g, int u, const float* y,
                          cudaStream_t stream);

// ---- long_start.cu, long_round.cu, long_fit.cu: groups of more than 128 inputs, step by step ----

// One such group at one width, or some rows of it. What a step needs of products with R_GG is made
// between the steps, by LaunchProducts.
struct LongFit {
  // The scales and codes that are tried, and the best so far: n rows of the group alone, k inputs,
  // with scales that lie `groups` apart. Of `best` the loss counts all groups.
  WidthState now, best;
  int64_t ld_now = 0, ld_best = 0;  // of the codes
  float* best_loss = nullptr;       // [n], of this group
  const float* w = nullptr;         // [n][k], compensated by the groups before
  int64_t ldw = 0;
  const float* omega = nullptr;  // [k]: the diagonal of R_GG R_GG^T
  const float* ones = nullptr;   // [k]: 1 R_GG
  SplitMatrix error;             // [n][k]: w - w^, up to whole 32 inputs
  float* error_factor = nullptr;
  int64_t ld_factor = 0;
  __half* design = nullptr;  // [planes][n][ld_design]: what each scale is multiplied with
  int64_t ld_design = 0;
  float* d = nullptr;  // [n][k]: the error times R_GG
  float* p = nullptr;  // [planes][n][k]: the design times R_GG

  __host__ __device__ int planes() const { return now.free_scales ? now.q : 1; }
};
// omega and ones, of r [size][ld].
cudaError_t LaunchLongMetric(const float* r, int64_t ld, int64_t size, float* omega, float* ones,
                             cudaStream_t stream);
// The weighted start: scales to `now`.
cudaError_t LaunchLongStart(const LongFit& fit, int rounds, cudaStream_t stream);
// `error`, and of `now` the design too.
cudaError_t LaunchLongErrors(const LongFit& fit, bool best, cudaStream_t stream);
// Refits the scales of `now` from d and p, and keeps what is better than `best`; the first round's
// always. In the last one the best loss is added to `best`'s.
cudaError_t LaunchLongRefit(const LongFit& fit, bool first, bool last, cudaStream_t stream);
// `error` = d.
cudaError_t LaunchLongSplit(const LongFit& fit, cudaStream_t stream);

// OPTQ along up to 128 inputs of a group whose scales are given.
struct GroupRound {
  int q = 0;
  int64_t n = 0, size = 0;
  const float* w = nullptr;  // [n][size], compensated by all inputs before
  int64_t ldw = 0;
  const float* u = nullptr;  // these inputs' square of U
  int64_t ldu = 0;
  uint8_t* codes = nullptr;  // [n][size]
  int64_t ldcodes = 0;
  const float* scale = nullptr;  // [n], or [n][q]
  const uint8_t* set = nullptr;
  const float* offset = nullptr;
  // What later inputs compensate, (v_j - w^_j) / U_jj, as fp16 pairs; one factor for 32 inputs.
  __half *e_hi = nullptr, *e_lo = nullptr;
  int64_t lde = 0;
  float* e_factor = nullptr;
  int64_t ld_factor = 0;
};
cudaError_t LaunchRounds(bool free_scales, const GroupRound* pieces, int count,
                         cudaStream_t stream);

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_LAUNCHES_H_
