// The exponent sets of bcq/shift as the tensor-core kernels read them.
#ifndef SHIFTADD_KERNELS_CUDA_SHIFT_TABLE_H_
#define SHIFTADD_KERNELS_CUDA_SHIFT_TABLE_H_

#include <optional>

#include "kernels/cuda/layout.h"

namespace shiftadd::kernels::cuda {

struct ShiftTable {
  float unit = 1;  // 2^e_min: sums are integers times this
  ShiftSets binary, integer;
};

// Nothing if q is not 2..4, there are more than kMaxTiledSets sets, or some set's integers
// 2^(e_i - e_min) sum to more than kMaxShiftSum.
std::optional<ShiftTable> MakeShiftTable(const ExponentTable& table, bool zeta);

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_SHIFT_TABLE_H_
