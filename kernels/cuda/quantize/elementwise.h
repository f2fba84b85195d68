// What a code stands for, outside the kernels that hold level tables.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_ELEMENTWISE_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_ELEMENTWISE_H_

#include "kernels/cuda/quantize/launches.h"

namespace shiftadd::kernels::quantize {

__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

// The weight of one code of one row's group, as LevelOf (row_lanes.h) computes it. unit: what the
// scale is multiplied with (shift only).
__device__ __forceinline__ float WeightOf(const WidthState& s, int64_t row, int64_t group, int code,
                                          float* unit) {
  const int64_t at = row * s.groups + group;
  const float z = s.has_offset ? s.offset[at] : 0.0f;
  float sum = 0.0f;
  if (s.free_scales) {
    const float* alpha = s.scale + at * s.q;
    for (int i = 0; i < s.q; ++i) sum += ((code >> i) & 1) != 0 ? alpha[i] : -alpha[i];
    *unit = 0.0f;
    return sum + z;
  }
  const float* plane = s.units.set[s.set[at] & 7];
  for (int i = 0; i < s.q; ++i) sum += ((code >> i) & 1) != 0 ? plane[i] : -plane[i];
  *unit = sum;
  return s.scale[at] * sum + z;
}

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_ELEMENTWISE_H_
