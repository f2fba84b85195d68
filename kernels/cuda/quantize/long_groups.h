// The group loop where groups have more than 128 inputs, too many for one block of threads: a round
// goes along the group in pieces of up to 128 inputs with products between them, and so do the
// errors in the group's metric. Rows come in parts that a bounded workspace takes.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_LONG_GROUPS_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_LONG_GROUPS_H_

#include <vector>

#include "kernels/cuda/quantize/arena.h"
#include "kernels/cuda/quantize/launches.h"

namespace shiftadd::kernels::quantize {

inline constexpr int64_t kPieceInputs = 128;  // of a group that one block of threads goes along
inline constexpr int64_t kBlockInputs = 512;  // whose changes are spread together
inline constexpr int64_t kPartBytes = int64_t{1} << 30;  // what a part of the rows may take

// A layer at one width at work.
struct WidthWork {
  WidthState state;       // residual: first the compensated weights, then (w - w^) H
  float* part = nullptr;  // [n][piece]: the current inputs' part of it, brought up to date
  SplitMatrix change;     // [n][block]: of the current block, not yet spread
  float* change_factor = nullptr;
  SplitMatrix error;  // [n][k]
  float* error_factor = nullptr;
};

class LongGroups {
 public:
  LongGroups(const CudaQuantizeRecipe& recipe, const CudaLayerProblem& problem,
             cudaStream_t stream);
  // Asks for the workspace. u: transposed; `ones`: factors for all inputs of exact fp16.
  void Prepare(std::vector<WidthWork> widths, const SplitMatrix& u, const float* u_factor,
               const float* ones, Arena* arena);
  // Codes, scales and losses of group g of all widths; the later inputs compensate it.
  cudaError_t Fit(int64_t g);

 private:
  struct Part {           // some rows of one group
    int64_t begin, size;  // inputs
    int64_t first, rows;
    int64_t end() const { return begin + size; }
  };
  cudaError_t Round(const Part& part);
  cudaError_t Measure(const Part& part, bool best);
  cudaError_t Compensate(const Part& part);
  cudaError_t FitRows(const Part& part);
  cudaError_t Multiply();  // products_, and forgets them
  SplitProduct& Add(const Part& part) {
    products_.emplace_back().n = part.rows;
    return products_.back();
  }

  const CudaQuantizeRecipe recipe_;
  const CudaLayerProblem problem_;
  const cudaStream_t stream_;
  const int64_t groups_;
  const int64_t ld_;  // of a group's fp16 matrices
  std::vector<WidthWork> widths_;
  std::vector<LongFit> fits_;  // a width: its workspace, then the part at hand
  SplitMatrix u_;
  const float* u_factor_ = nullptr;
  const float* ones_ = nullptr;
  int64_t rows_ = 0;  // a part
  SplitMatrix r_;     // R_GG transposed
  float* r_factor_ = nullptr;
  uint32_t* largest_ = nullptr;
  float *omega_ = nullptr, *r_sum_ = nullptr;
  std::vector<SplitProduct> products_;
};

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_LONG_GROUPS_H_
