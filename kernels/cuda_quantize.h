// Quantizes linear layers into binary planes on an NVIDIA GPU of compute capability 8.0 or more
// with 140 KiB of shared memory a block (8.0, 9.0; only 9.0 was ever run): the group loop (weighted
// start, OPTQ rounding and refits inside a group, feedback to later groups), coordinate descent and
// the joint refit of a layer's scales.
//
// Sources: OPTQ (arXiv 2210.17323) for the feedback, ShiftAddLLM (2406.05981) for binary codes in
// it. Plain C++; a stream is a cudaStream_t. All pointers are to memory of the current device,
// row-major, hold finite numbers, and stay the caller's. Work is queued on the stream and not
// waited for. Two runs on one kind of GPU give the same bits; they are not the CPU's bits: fp32
// sums run in another order, and products with H and U are taken on the tensor cores, every fp32
// number split into two fp16 (22 bits).
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_H_

#include <cstdint>
#include <memory>

#include "kernels/cuda_types.h"

namespace shiftadd::kernels {

struct CudaQuantizeRecipe {
  // Inputs a group: a multiple of 32, whole rows rounded up to one (64 and 128 are tuned; more than
  // 128 in steps, without CudaFitGroups).
  int64_t group = 128;
  bool free_scales = false;  // every plane its own scale; otherwise s 2^e_i
  bool offset = false;
  int rounds = 15;          // T, of the weighted start
  int inner_rounds = 4;     // T_in, inside a group
  int sweeps = 2;           // coordinate descent and joint refit
  bool half_scales = true;  // the last refit's scales are rounded to fp16, as packages store them
};

// One group of one layer at one width: weights in, codes, scales and feedback out.
struct CudaGroupFit {
  int q = 0;                 // planes, 1..8; 2, 3 and 4 are tuned
  int64_t n = 0, size = 0;   // rows, inputs (<= 128)
  const float* w = nullptr;  // [n][size], compensated by the groups before
  int64_t ldw = 0;
  const float* u = nullptr;  // U_GG [size][size], upper
  int64_t ldu = 0;
  const float* r = nullptr;  // R_GG [size][size], upper, zero below the diagonal
  int64_t ldr = 0;
  uint8_t* codes = nullptr;  // [n][size]: bit i is plane i, 1 is +1
  int64_t ldcodes = 0;
  // Row strides in groups of the three below (they point at this group's first element).
  int64_t groups = 1;
  float* scale = nullptr;   // shift: s [n][groups]; free: alpha [n][groups][q]
  uint8_t* set = nullptr;   // [n][groups], index into DefaultExponentTable(q); shift only
  float* offset = nullptr;  // z [n][groups]; only with offset
  float* loss = nullptr;    // [n]: the group's loss is added to it; may be null
  // The error times R_GG, which later groups compensate: e = (hi + lo) * e_scale. [n][size] and, a
  // factor for every 32 inputs, [n][ceil(size / 32)]. All null: not wanted.
  void *e_hi = nullptr, *e_lo = nullptr;  // fp16
  int64_t lde = 0;
  float* e_scale = nullptr;
  int64_t lde_scale = 0;
};

// The most groups (of any layers and widths) that one launch takes; more take several launches.
inline constexpr int kCudaFitsPerLaunch = 16;

// Fits `count` groups that do not depend on each other: the weighted start and all rounds.
CudaStatus CudaFitGroups(const CudaQuantizeRecipe& recipe, const CudaGroupFit* fits, int count,
                         CudaStream stream);

// A layer to be quantized, inputs (rotated, if they are) in processing order, groups whole, a short
// group last, dead inputs' weights 0.
struct CudaLayerProblem {
  int64_t n = 0, k = 0;
  const float* w = nullptr;  // [n, k]
  const float* u = nullptr;  // [k, k]: U, upper, zero below the diagonal, U^T U = H^-1
  const float* r = nullptr;  // [ceil(k / group)][group][group]: R_GG, H = R R^T, zeros around it
  const float* h = nullptr;  // [k, k]: the damped H
};

// The same layer at one width; G = ceil(k / group).
struct CudaLayerCodes {
  int q = 0;                 // 1..8
  uint8_t* codes = nullptr;  // [n, k]: bit i is plane i, 1 is +1
  float* scale = nullptr;    // shift: s [n, G]; free: alpha [n, G, q]; may be negative or unsorted
  uint8_t* set = nullptr;    // [n, G], index into DefaultExponentTable(q); shift only
  float* offset = nullptr;   // z [n, G]; only with offset
  float* loss = nullptr;     // [n]: (w - w^) H (w - w^)^T; may be null
};

inline constexpr int kMaxCudaWidths = 8;

// One layer at several widths, step by step. Owns the workspace: about 8 k^2 bytes, 8 n k more a
// width, up to 1 GiB for the refit, and with groups of more than 128 inputs up to 1 GiB and 4
// group^2 bytes for them. Not thread-safe; one object belongs on one stream.
class CudaLayerQuantizer {
 public:
  // Checks everything and allocates. OUT_OF_MEMORY says how many bytes were wanted.
  static CudaStatus Create(const CudaQuantizeRecipe& recipe, const CudaLayerProblem& problem,
                           const CudaLayerCodes* widths, int count, CudaStream stream,
                           std::unique_ptr<CudaLayerQuantizer>* out);
  virtual ~CudaLayerQuantizer() = default;

  // Codes and scales from the weights.
  virtual CudaStatus GroupLoop() = 0;
  // One sweep of coordinate descent: better codes for the given scales.
  virtual CudaStatus Descend() = 0;
  // All scales of a row at once, for the given codes; `last`: rounded as the recipe says. Needs
  // Descend before it (the residual that it leaves), and writes the losses.
  virtual CudaStatus Refit(bool last) = 0;
  // GroupLoop, then as many Descend and Refit as the recipe says.
  virtual CudaStatus Run() = 0;
};

// A layer at one width as packages store it (packed_matrix.h): positive scales, of free ones the
// largest first, in fp16.
struct CudaPackedCodes {
  uint32_t* planes = nullptr;  // [q, n, ceil(k / 32)]
  uint16_t* scale = nullptr;   // shift: [n, G]; free: [n, G, q]
  uint16_t* zeta = nullptr;    // [n, G]; only with offset
  float* what = nullptr;       // [n, k]: the weights that these stand for; may be null
};
// Packs codes whose inputs stand in their own order, not the processing order. The exponent sets
// stay as they are. Scales beyond fp16's range become infinite: the caller looks.
CudaStatus CudaPackLayer(const CudaQuantizeRecipe& recipe, int64_t n, int64_t k,
                         const CudaLayerCodes& codes, const CudaPackedCodes& out,
                         CudaStream stream);

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_H_
