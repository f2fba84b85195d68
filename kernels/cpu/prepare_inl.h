// Activations to digits, compiled once an instruction set: include it in that unit only.
//
// Everything is in an unnamed namespace and uses no library template: a function shared between
// units compiled for different instruction sets would be kept once, in whichever form the linker
// met first.
//
// A chunk's scale is max|x| / 127 (A16: / 32512), digits round to nearest, even. A16's value is
// 255 high + low with both digits in [-127, 127].
#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/rotation.h"

namespace shiftadd::kernels::cpu {
namespace {

// Adding and taking away 1.5 * 2^23 rounds |v| < 2^22 to the nearest integer, even on a tie.
constexpr float kRounder = 12582912.0f;
// Below this the reciprocal overflows; such a chunk counts as zero.
constexpr float kTiny = 1e-30f;

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float FloatLanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntLanes __attribute__((vector_size(4 * kLanes)));
template <int... kIndex>
struct Lanes {};

inline FloatLanes LoadLanes(const float* p) {
  FloatLanes v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
inline void StoreLanes(float* p, FloatLanes v) { __builtin_memcpy(p, &v, sizeof(v)); }

// The butterfly of lanes i and i ^ kDistance: the upper one of a pair is negated, then added to the
// other.
template <int kDistance, int... kIndex>
inline FloatLanes Butterfly(FloatLanes v, Lanes<kIndex...>) {
  constexpr int32_t kSign = INT32_MIN;
  const IntLanes flip = {((kIndex & kDistance) != 0 ? kSign : 0)...};
  const FloatLanes other = __builtin_shufflevector(v, v, (kIndex ^ kDistance)...);
  return other + (FloatLanes)((IntLanes)v ^ flip);
}

#if defined(__AVX512F__)
typedef Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15> AllLanes;
#elif defined(__AVX2__)
typedef Lanes<0, 1, 2, 3, 4, 5, 6, 7> AllLanes;
#else
typedef Lanes<0, 1, 2, 3> AllLanes;
#endif

// n is a power of two. Distances ascend, as in rotation.cc: sums are rounded, so their order
// counts.
inline void HadamardBlock(float* x, int64_t n) {
  int64_t h = 1;
  if (n >= kLanes) {
    for (int64_t i = 0; i < n; i += kLanes) {
      FloatLanes v = LoadLanes(x + i);
      v = Butterfly<1>(v, AllLanes());
      v = Butterfly<2>(v, AllLanes());
      if constexpr (kLanes > 4) v = Butterfly<4>(v, AllLanes());
      if constexpr (kLanes > 8) v = Butterfly<8>(v, AllLanes());
      StoreLanes(x + i, v);
    }
    h = kLanes;
  }
  for (; h < n; h *= 2) {
    for (int64_t i = 0; i < n; i += 2 * h) {
      for (int64_t j = i; j < i + h; ++j) {
        const float a = x[j];
        const float b = x[j + h];
        x[j] = a + b;
        x[j + h] = a - b;
      }
    }
  }
}

// out[i] = x[i] * norm, negated where the sign bit is 0. begin is a multiple of 32, or n is
// below 32.
template <int... kIndex>
inline void ScaleAndSign(const float* x, int64_t begin, int64_t n, const uint32_t* signs,
                         float norm, float* out, Lanes<kIndex...>) {
  int64_t i = begin;
  if (n >= 32) {
    for (; i < begin + n; i += kLanes) {
      const int32_t word = static_cast<int32_t>(signs[i / 32] >> (i % 32));
      const IntLanes bits = {(word & (1 << kIndex))...};
      const IntLanes flip = (bits == 0) & IntLanes{(INT32_MIN | (kIndex & 0))...};
      StoreLanes(out + i, (FloatLanes)((IntLanes)(LoadLanes(x + i) * norm) ^ flip));
    }
  }
  for (; i < begin + n; ++i) {
    const bool plus = (signs[i / 32] >> (i % 32)) & 1u;
    out[i] = x[i] * (plus ? norm : -norm);
  }
}

// The bits of Rotate(float*) in rotation.h.
inline void RotateInto(const float* x, int64_t k, const uint32_t* signs, float* out) {
  // n^-1/2 rounded to float, by log2 of n.
  constexpr float kNorms[8] = {1.0f,  0.70710678118654752f, 0.5f,   0.35355339059327376f,
                               0.25f, 0.17677669529663689f, 0.125f, 0.08838834764831845f};
  ForEachRotationBlock(k, [&](int64_t begin, int64_t n) {
    const float norm = kNorms[__builtin_ctzll(static_cast<unsigned long long>(n))];
    ScaleAndSign(x, begin, n, signs, norm, out, AllLanes());
    HadamardBlock(out + begin, n);
  });
}

// By the bits, whose order is that of magnitudes: integer maxima vectorize, float ones must not.
inline float MaxMagnitude(const float* x, int64_t n) {
  int32_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    int32_t bits;
    __builtin_memcpy(&bits, x + i, 4);
    bits &= INT32_MAX;
    top = bits > top ? bits : top;
  }
  float magnitude;
  __builtin_memcpy(&magnitude, &top, 4);
  return magnitude;
}

inline float RoundWithin(float v, float limit) {
  v = (v + kRounder) - kRounder;
  v = v > -limit ? v : -limit;  // also what a NaN becomes
  return v < limit ? v : limit;
}

inline int32_t Digits8(const float* x, int64_t n, float inverse, int8_t* out) {
  int32_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t v = static_cast<int32_t>(RoundWithin(x[i] * inverse, 127.0f));
    out[i] = static_cast<int8_t>(v);
    total += v;
  }
  return total;
}

inline int32_t Digits16(const float* x, int64_t n, float inverse, int8_t* high, int8_t* low) {
  int32_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t v = static_cast<int32_t>(RoundWithin(x[i] * inverse, 32512.0f));
    // floor((v + 127) / 255), by a reciprocal exact below 2^16.
    const uint32_t shifted = static_cast<uint32_t>(v + 127 + 128 * 255);
    const int32_t h = static_cast<int32_t>((shifted * 32897u) >> 23) - 128;
    high[i] = static_cast<int8_t>(h);
    low[i] = static_cast<int8_t>(v - 255 * h);
    total += v;
  }
  return total;
}

void PrepareToken(const PrepareArgs& args) {
  const float* x = args.x;
  if (args.signs != nullptr) {
    RotateInto(args.x, args.k, args.signs, args.scratch);
    x = args.scratch;
  }
  const float limit = args.low != nullptr ? 32512.0f : 127.0f;
  int64_t chunk = 0;
  for (int64_t begin = 0; begin < args.k; ++chunk) {
    int64_t end = (begin / kBlockInputs + 1) * kBlockInputs;
    const int64_t group_end = (begin / args.group + 1) * args.group;
    if (group_end < end) end = group_end;
    if (args.k < end) end = args.k;
    const int64_t n = end - begin;
    const float top = MaxMagnitude(x + begin, n);
    const bool zero = !(top >= kTiny);
    const float inverse = zero ? 0.0f : limit / top;
    const float scale = zero ? 0.0f : top / limit;
    const int32_t total = args.low != nullptr
                              ? Digits16(x + begin, n, inverse, args.high + begin, args.low + begin)
                              : Digits8(x + begin, n, inverse, args.high + begin);
    args.scale[chunk] = scale;
    args.digit_sum[chunk] = total;
    args.sum[chunk] = scale * static_cast<float>(total);
    begin = end;
  }
  for (int64_t i = args.k; i < args.k_padded; ++i) {
    args.high[i] = 0;
    if (args.low != nullptr) args.low[i] = 0;
  }
}

}  // namespace
}  // namespace shiftadd::kernels::cpu
