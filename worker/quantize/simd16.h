// Sixteen floats or int32 side by side, on any instruction set. One translation unit an instruction
// set includes this with SHIFTADD_VECTOR_WIDTH (4, 8 or 16 floats a register) defined; everything
// is local to that unit. Operations are IEEE, lane by lane, never contracted: every width computes
// the same bits.
#ifndef SHIFTADD_WORKER_QUANTIZE_SIMD16_H_
#define SHIFTADD_WORKER_QUANTIZE_SIMD16_H_

#include <cstdint>
#include <cstring>

#define SA_INLINE static inline __attribute__((always_inline))

namespace shiftadd::quantize {
namespace {

constexpr int kLanes16 = 16;
constexpr int kNative = SHIFTADD_VECTOR_WIDTH;

typedef float NativeFloat __attribute__((vector_size(4 * SHIFTADD_VECTOR_WIDTH)));
typedef int32_t NativeInt __attribute__((vector_size(4 * SHIFTADD_VECTOR_WIDTH)));

// A register, and pairs of them until sixteen lanes are full. No arrays: they would keep values out
// of registers.
struct LeafF {
  NativeFloat v;
};
struct LeafI {
  NativeInt v;
};
template <typename T>
struct Pair {
  T lo, hi;
};

#if SHIFTADD_VECTOR_WIDTH == 16
using F16 = LeafF;
using I16 = LeafI;
#elif SHIFTADD_VECTOR_WIDTH == 8
using F16 = Pair<LeafF>;
using I16 = Pair<LeafI>;
#else
using F16 = Pair<Pair<LeafF>>;
using I16 = Pair<Pair<LeafI>>;
#endif

SA_INLINE LeafF operator+(LeafF x, LeafF y) { return {x.v + y.v}; }
SA_INLINE LeafF operator-(LeafF x, LeafF y) { return {x.v - y.v}; }
SA_INLINE LeafF operator*(LeafF x, LeafF y) { return {x.v * y.v}; }
SA_INLINE LeafF operator/(LeafF x, LeafF y) { return {x.v / y.v}; }
SA_INLINE LeafI operator<(LeafF x, LeafF y) { return {x.v < y.v}; }
SA_INLINE LeafI operator>=(LeafF x, LeafF y) { return {x.v >= y.v}; }
SA_INLINE LeafI operator==(LeafF x, LeafF y) { return {x.v == y.v}; }
SA_INLINE LeafI operator&(LeafI x, LeafI y) { return {x.v & y.v}; }
SA_INLINE LeafI operator|(LeafI x, LeafI y) { return {x.v | y.v}; }
SA_INLINE LeafF Select(LeafI m, LeafF x, LeafF y) { return {m.v ? x.v : y.v}; }
SA_INLINE LeafI Select(LeafI m, LeafI x, LeafI y) { return {m.v ? x.v : y.v}; }
// All ones where x has a bit of `mask`.
SA_INLINE LeafI HasBit(LeafI x, int32_t mask) { return {(x.v & mask) != 0}; }
SA_INLINE LeafF Abs(LeafF x) { return {(NativeFloat)((NativeInt)x.v & 0x7fffffff)}; }

#define SA_PAIRWISE(OP)                                                     \
  template <typename T>                                                     \
  SA_INLINE auto OP(Pair<T> x, Pair<T> y)->Pair<decltype(OP(x.lo, y.lo))> { \
    return {OP(x.lo, y.lo), OP(x.hi, y.hi)};                                \
  }
SA_PAIRWISE(operator+)
SA_PAIRWISE(operator-)
SA_PAIRWISE(operator*)
SA_PAIRWISE(operator/)
SA_PAIRWISE(operator<)
SA_PAIRWISE(operator>=)
SA_PAIRWISE(operator==)
SA_PAIRWISE(operator&)
SA_PAIRWISE(operator|)
#undef SA_PAIRWISE

template <typename M, typename T>
SA_INLINE Pair<T> Select(Pair<M> m, Pair<T> x, Pair<T> y) {
  return {Select(m.lo, x.lo, y.lo), Select(m.hi, x.hi, y.hi)};
}
template <typename T>
SA_INLINE Pair<T> HasBit(Pair<T> x, int32_t mask) {
  return {HasBit(x.lo, mask), HasBit(x.hi, mask)};
}
template <typename T>
SA_INLINE Pair<T> Abs(Pair<T> x) {
  return {Abs(x.lo), Abs(x.hi)};
}

// Minus zero changes no number, not even -0, and compiles to a broadcast; a loop over lanes does
// not.
SA_INLINE void Fill(LeafF* x, float value) { x->v = value - NativeFloat{}; }
SA_INLINE void Fill(LeafI* x, int32_t value) { x->v = value - NativeInt{}; }
template <typename T, typename V>
SA_INLINE void Fill(Pair<T>* x, V value) {
  Fill(&x->lo, value);
  x->hi = x->lo;
}
SA_INLINE F16 Splat(float value) {
  F16 x;
  Fill(&x, value);
  return x;
}
SA_INLINE I16 SplatInt(int32_t value) {
  I16 x;
  Fill(&x, value);
  return x;
}
// Register by register: a copy of all sixteen lanes at once would go through the stack.
SA_INLINE void LoadTo(LeafF* x, const float* p) { std::memcpy(&x->v, p, sizeof x->v); }
SA_INLINE void LoadTo(LeafI* x, const int32_t* p) { std::memcpy(&x->v, p, sizeof x->v); }
SA_INLINE void Store(float* p, LeafF x) { std::memcpy(p, &x.v, sizeof x.v); }
SA_INLINE void Store(int32_t* p, LeafI x) { std::memcpy(p, &x.v, sizeof x.v); }
template <typename T, typename N>
SA_INLINE void LoadTo(Pair<T>* x, const N* p) {
  LoadTo(&x->lo, p);
  LoadTo(&x->hi, p + sizeof(T) / sizeof(N));
}
template <typename T, typename N>
SA_INLINE void Store(N* p, Pair<T> x) {
  Store(p, x.lo);
  Store(p + sizeof(T) / sizeof(N), x.hi);
}
SA_INLINE F16 Load(const float* p) {
  F16 x;
  LoadTo(&x, p);
  return x;
}
SA_INLINE I16 LoadInt(const int32_t* p) {
  I16 x;
  LoadTo(&x, p);
  return x;
}

}  // namespace
}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_SIMD16_H_
