// fp16 pairs of a number, and what a code stands for outside the kernels that hold level tables.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_ELEMENTWISE_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_ELEMENTWISE_H_

#include "kernels/cuda/quantize/launches.h"

namespace shiftadd::kernels::quantize {

__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

// The power of two that takes a largest magnitude to [2^14, 2^15), and its inverse.
__device__ __forceinline__ void PairScale(uint32_t largest, float* up, float* down) {
  int exponent = static_cast<int>(largest >> 23) - 127;
  exponent = exponent < -100 ? -100 : exponent;
  *up = __uint_as_float(static_cast<unsigned>(127 + 14 - exponent) << 23);
  *down = __uint_as_float(static_cast<unsigned>(127 - 14 + exponent) << 23);
}

__device__ __forceinline__ void StorePair(float x, __half* hi, __half* lo) {
  const __half high = __float2half_rn(x);
  *hi = high;
  *lo = __float2half_rn(x - __half2float(high));
}

// What the codes of one row's group stand for, as LevelOf (row_lanes.h) computes it.
struct GroupWeights {
  float plane[8];  // free: alpha_i; shift: 2^e_i
  float scale = 1.0f, z = 0.0f;
  bool free_scales;
  int q;

  __device__ GroupWeights(const WidthState& s, int64_t row, int64_t group)
      : free_scales(s.free_scales), q(s.q) {
    const int64_t at = row * s.groups + group;
    if (s.has_offset) z = s.offset[at];
    if (!free_scales) scale = s.scale[at];
    const int set = free_scales ? 0 : s.set[at] & 7;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < q) plane[i] = free_scales ? s.scale[at * q + i] : s.units.set[set][i];
    }
  }
  // In units of s; free: without the offset.
  __device__ float Unit(int code) const {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < q) sum += ((code >> i) & 1) != 0 ? plane[i] : -plane[i];
    }
    return sum;
  }
  __device__ float Weight(float unit) const { return free_scales ? unit + z : scale * unit + z; }
};

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_ELEMENTWISE_H_
