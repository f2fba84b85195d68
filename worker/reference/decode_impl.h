// The bodies of DecodeKernels, compiled once an instruction set (decode_portable.cc,
// decode_avx2.cc, decode_avx512.cc) with SHIFTADD_VECTOR_WIDTH, floats a register, defined.
// Everything is local to the including unit, and no template of the standard library is used: its
// weak symbols would be shared with units that must run on lesser CPUs.
#ifndef SHIFTADD_WORKER_REFERENCE_DECODE_IMPL_H_
#define SHIFTADD_WORKER_REFERENCE_DECODE_IMPL_H_

#include <cstdint>
#include <cstring>

#if SHIFTADD_VECTOR_WIDTH > 4
#include <immintrin.h>
#endif

#include "kernels/packed_matrix.h"
#include "worker/reference/decode_kernels.h"

#define SA_INLINE static inline __attribute__((always_inline))

namespace shiftadd::reference {
namespace {

constexpr int kWidth = SHIFTADD_VECTOR_WIDTH;
// Sequences whose sums stand in registers together: one register each.
constexpr int kTile = kWidth == 16 ? 16 : 8;

typedef float Vec __attribute__((vector_size(4 * SHIFTADD_VECTOR_WIDTH)));
typedef int32_t IntVec __attribute__((vector_size(4 * SHIFTADD_VECTOR_WIDTH)));

// Minus zero changes no number, not even -0, and compiles to a broadcast.
SA_INLINE Vec Splat(float x) { return x - Vec{}; }
SA_INLINE Vec Load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
SA_INLINE void Store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

SA_INLINE Vec Fma(Vec a, Vec b, Vec c) {
#if SHIFTADD_VECTOR_WIDTH == 16
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif SHIFTADD_VECTOR_WIDTH == 8
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

SA_INLINE Vec LoadHalf(const uint16_t* p) {
#if SHIFTADD_VECTOR_WIDTH == 16
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif SHIFTADD_VECTOR_WIDTH == 8
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  Vec v;
  for (int i = 0; i < kWidth; ++i) v[i] = kernels::HalfToFloat(p[i]);
  return v;
#endif
}

// e^x within 2 units in the last place, x limited to -87 … 87; NaN stays NaN. x = n log 2 + r,
// Taylor to r^7 / 7!, 2^n through the exponent's bits.
SA_INLINE Vec Exp(Vec x) {
  const Vec low = Splat(-87.0f), high = Splat(87.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Vec round = Splat(0x1.8p23f);  // adding it rounds to a whole number, left in the low bits
  const Vec shifted = Fma(x, Splat(0x1.715476p+0f), round);
  const Vec n = shifted - round;
  Vec r = Fma(n, Splat(-0x1.62e400p-1f), x);  // log 2 in two parts: 9 trailing zeros in the first
  r = Fma(n, Splat(-0x1.7f7d1cp-20f), r);
  Vec p = Splat(1.0f / 5040);
  p = Fma(p, r, Splat(1.0f / 720));
  p = Fma(p, r, Splat(1.0f / 120));
  p = Fma(p, r, Splat(1.0f / 24));
  p = Fma(p, r, Splat(1.0f / 6));
  p = Fma(p, r, Splat(0.5f));
  p = Fma(p, r, Splat(1.0f));
  p = Fma(p, r, Splat(1.0f));
  const IntVec exponent = ((IntVec)shifted - (IntVec)round + 127) << 23;
  return p * (Vec)exponent;
}

// sums[s] = one panel's rows times the s-th sequence.
template <int kSequences>
SA_INLINE void Panel(const uint16_t* w, int64_t cols, const float* x, Vec* sums) {
  Vec sum[kSequences];
#pragma GCC unroll 16
  for (int s = 0; s < kSequences; ++s) sum[s] = Vec{};
  for (int64_t k = 0; k < cols; ++k) {
    __builtin_prefetch(w + (k + 64) * kWidth);
    const Vec weight = LoadHalf(w + k * kWidth);
#pragma GCC unroll 16
    for (int s = 0; s < kSequences; ++s)
      sum[s] = Fma(weight, Splat(x[k * kDecodeLanes + s]), sum[s]);
  }
#pragma GCC unroll 16
  for (int s = 0; s < kSequences; ++s) sums[s] = sum[s];
}

// All sequences of one panel, [sequences][kWidth].
SA_INLINE void WholePanel(const uint16_t* w, int64_t cols, const float* x, int sequences,
                          float* out) {
  for (int s = 0; s < sequences; s += kTile) {
    Vec sums[kTile];
    const int left = sequences - s;
    if (left <= 4) {
      Panel<4>(w, cols, x + s, sums);
    } else if (kTile == 16 && left > 12) {
      Panel<kTile>(w, cols, x + s, sums);
    } else if (kTile == 16 && left > 8) {
      Panel<kTile == 16 ? 12 : kTile>(w, cols, x + s, sums);
    } else {
      Panel<8>(w, cols, x + s, sums);
    }
    for (int i = 0; i < kTile && i < left; ++i) Store(out + (s + i) * kWidth, sums[i]);
  }
}

void Multiply(const uint16_t* w, int64_t rows, int64_t cols, const float* x, int sequences,
              float* y) {
  for (int64_t row = 0; row < rows; row += kWidth, w += cols * kWidth) {
    float panel[kDecodeLanes * kWidth];
    WholePanel(w, cols, x, sequences, panel);
    const int64_t n = rows - row < kWidth ? rows - row : kWidth;
    for (int64_t i = 0; i < n; ++i) {
      for (int s = 0; s < sequences; ++s) y[(row + i) * kDecodeLanes + s] = panel[s * kWidth + i];
    }
  }
}

void MultiplyOut(const uint16_t* w, int64_t rows, int64_t cols, const float* x, int sequences,
                 float* y) {
  for (int64_t row = 0; row < rows; row += kWidth, w += cols * kWidth) {
    float panel[kDecodeLanes * kWidth];
    WholePanel(w, cols, x, sequences, panel);
    const int64_t n = rows - row < kWidth ? rows - row : kWidth;
    for (int s = 0; s < sequences; ++s)
      std::memcpy(y + s * rows + row, panel + s * kWidth, static_cast<size_t>(n) * sizeof(float));
  }
}

// Scores of kHeads heads for kWidth * kVectors positions.
template <int kHeads, int kVectors>
SA_INLINE void Scores(const AttendArgs& a, int64_t head, int64_t position, int64_t stride) {
  constexpr int kPer16 = 16 / kWidth;  // registers of one block of 16 positions
  Vec sum[kHeads][kVectors];
#pragma GCC unroll 4
  for (int h = 0; h < kHeads; ++h)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[h][v] = Vec{};
  for (int64_t d = 0; d < a.dim; ++d) {
    Vec key[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const int64_t block = position / 16 + v / kPer16;
      key[v] = LoadHalf(a.keys + (block * a.dim + d) * 16 + (v % kPer16) * kWidth);
    }
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; ++h) {
      const Vec q = Splat(a.q[((head + h) * a.dim + d) * kDecodeLanes]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[h][v] = Fma(q, key[v], sum[h][v]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < kHeads; ++h)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      Store(a.scores + (head + h) * stride + position + v * kWidth, sum[h][v]);
}

// Probabilities in place. Positions before `first` and behind `seen` get 0.
void Softmax(float* scores, int64_t first, int64_t seen, int64_t padded) {
  float max = scores[0];
  for (int64_t i = 1; i < seen; ++i) max = scores[i] > max ? scores[i] : max;
  for (int64_t i = 0; i < padded; i += kWidth)
    Store(scores + i, Exp(Load(scores + i) - Splat(max)));
  for (int64_t i = 0; i < first; ++i) scores[i] = 0.0f;
  for (int64_t i = seen; i < padded; ++i) scores[i] = 0.0f;
  float sum[16] = {};
  for (int64_t i = 0; i < padded; i += 16) {
    for (int j = 0; j < 16; ++j) sum[j] += scores[i + j];
  }
  for (int step = 8; step > 0; step /= 2) {
    for (int j = 0; j < step; ++j) sum[j] += sum[j + step];
  }
  const Vec factor = Splat(1.0f / sum[0]);
  for (int64_t i = 0; i < padded; i += kWidth) Store(scores + i, Load(scores + i) * factor);
}

// The values' mean under kHeads heads' probabilities, kVectors registers of the dimensions.
template <int kHeads, int kVectors>
SA_INLINE void Mix(const AttendArgs& a, int64_t head, int64_t begin, int64_t stride) {
  Vec sum[kHeads][kVectors];
#pragma GCC unroll 4
  for (int h = 0; h < kHeads; ++h)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[h][v] = Vec{};
  for (int64_t t = 0; t < a.seen; ++t) {
    Vec value[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      value[v] = LoadHalf(a.values + t * a.dim_padded + begin + v * kWidth);
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; ++h) {
      const Vec p = Splat(a.scores[(head + h) * stride + t]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[h][v] = Fma(p, value[v], sum[h][v]);
    }
  }
  float numbers[kVectors * kWidth];
#pragma GCC unroll 4
  for (int h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(numbers + v * kWidth, sum[h][v]);
    for (int64_t d = begin; d < a.dim && d < begin + kVectors * kWidth; ++d)
      a.out[((head + h) * a.dim + d) * kDecodeLanes] = numbers[d - begin];
  }
}

// What a few models do to scores; scalar, for they are few.
void Adjust(const AttendArgs& a, int64_t head, float* scores) {
  if (a.cap > 0) {
    for (int64_t i = a.first; i < a.seen; ++i)
      scores[i] = a.cap * (1.0f - 2.0f / (__builtin_expf(2.0f * scores[i] / a.cap) + 1.0f));
  }
  if (a.slopes != nullptr) {
    for (int64_t i = a.first; i < a.seen; ++i) scores[i] += a.slopes[head] * static_cast<float>(i);
  }
  // Hidden ones must not be the maximum; what they give is set to 0 below.
  for (int64_t i = 0; i < a.first; ++i) scores[i] = scores[a.first];
}

template <int kHeads>
SA_INLINE void AttendHeads(const AttendArgs& a, int64_t head) {
  constexpr int kVectors = 16 / kWidth < 4 ? 4 : 16 / kWidth;
  const int64_t padded = (a.seen + 15) / 16 * 16;
  int64_t position = 0;
  for (; position + kVectors * kWidth <= padded; position += kVectors * kWidth)
    Scores<kHeads, kVectors>(a, head, position, padded);
  for (; position < padded; position += kWidth) {
    if constexpr (kWidth == 16) Scores<kHeads, 1>(a, head, position, padded);
    if constexpr (kWidth == 8) {
      Scores<kHeads, 2>(a, head, position, padded);
      position += kWidth;
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    float* scores = a.scores + (head + h) * padded;
    Adjust(a, head + h, scores);
    Softmax(scores, a.first, a.seen, padded);
  }
  int64_t begin = 0;
  for (; begin + 4 * kWidth <= a.dim_padded; begin += 4 * kWidth)
    Mix<kHeads, 4>(a, head, begin, padded);
  for (; begin < a.dim_padded; begin += kWidth) Mix<kHeads, 1>(a, head, begin, padded);
}

void Attend(const AttendArgs& a) {
  int64_t head = 0;
  for (; head + 4 <= a.group; head += 4) AttendHeads<4>(a, head);
  for (; head + 3 <= a.group; head += 3) AttendHeads<3>(a, head);
  for (; head + 2 <= a.group; head += 2) AttendHeads<2>(a, head);
  for (; head < a.group; ++head) AttendHeads<1>(a, head);
}

void SwiGluInPlace(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vec g = Load(gate + i);
    Store(gate + i, g / (Splat(1.0f) + Exp(-g)) * Load(up + i));
  }
}

constexpr DecodeKernels kDecodeKernels = {kWidth, Multiply, MultiplyOut, Attend, SwiGluInPlace};

}  // namespace
}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_DECODE_IMPL_H_
