// Additive powers of two (APoT): a number as a sum of a few signed powers of two, greedily.
//
// Source: ShiftAddLLM (arXiv 2406.05981), as its released code behaves: the exponent is rounded in
// the log domain.
#ifndef SHIFTADD_WORKER_QUANTIZE_APOT_H_
#define SHIFTADD_WORKER_QUANTIZE_APOT_H_

#include <cstdint>
#include <cstring>

namespace shiftadd::quantize {

// `static`, not `inline`: units compiled for several instruction sets include this, and the linker
// must not pick one unit's copy for all of them.

// sign(x) 2^round(log2 |x|); 0 for 0. Exact: decided on the bits, no logarithm is taken. x must be
// finite; subnormal numbers count as 0.
static inline float PowerOfTwo(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = bits & 0x80000000u;
  uint32_t exponent = (bits >> 23) & 0xffu;
  if (exponent == 0) return 0.0f;
  // The mantissa of sqrt(2): log2 rounds up from there. 0x3504f3 is the largest mantissa below
  // sqrt(2).
  if ((bits & 0x7fffffu) > 0x3504f3u && exponent < 254) ++exponent;
  bits = sign | (exponent << 23);
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The sum of the first `terms` powers: p_1 = POT(x), p_k = POT(x - p_1 - ... - p_{k-1}).
static inline float AdditivePowersOfTwo(float x, int terms) {
  float sum = 0.0f;
  for (int k = 0; k < terms; ++k) sum += PowerOfTwo(x - sum);
  return sum;
}

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_APOT_H_
