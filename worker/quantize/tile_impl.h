// The bodies of TileKernels, compiled once an instruction set (tile_portable.cc, tile_avx2.cc,
// tile_avx512.cc).
//
// Everything here is local to the including unit, and no template of the standard library is used:
// its weak symbols would be shared with units that must run on lesser CPUs.
#ifndef SHIFTADD_WORKER_QUANTIZE_TILE_IMPL_H_
#define SHIFTADD_WORKER_QUANTIZE_TILE_IMPL_H_

#include <cstdlib>

#include "worker/quantize/apot.h"
#include "worker/quantize/simd16.h"
#include "worker/quantize/small_solve.h"
#include "worker/quantize/tile_kernels.h"

namespace shiftadd::quantize {
namespace {

// n rows of sixteen int32.
class CodeBuffer {
 public:
  explicit CodeBuffer(int64_t n)
      : data_(static_cast<int32_t*>(std::malloc(static_cast<size_t>(n) * kLanes * 4))) {
    if (data_ == nullptr) std::abort();
  }
  ~CodeBuffer() { std::free(data_); }
  CodeBuffer(const CodeBuffer&) = delete;
  CodeBuffer& operator=(const CodeBuffer&) = delete;
  int32_t* row(int64_t k) { return data_ + k * kLanes; }

 private:
  int32_t* data_;
};

F16 Omega(const float* omega, int64_t k) { return Splat(omega == nullptr ? 1.0f : omega[k]); }

float TotalOmega(const float* omega, int64_t n) {
  if (omega == nullptr) return static_cast<float>(n);
  float sum = 0.0f;
  for (int64_t k = 0; k < n; ++k) sum += omega[k];
  return sum;
}

F16 WeightedMean(const float* w, const float* omega, int64_t n) {
  F16 sum = Splat(0.0f);
  for (int64_t k = 0; k < n; ++k) sum = sum + Omega(omega, k) * Load(w + k * kLanes);
  return sum / Splat(TotalOmega(omega, n));
}

// --- Free scales ---

void GreedyStart(const float* w, const float* omega, int64_t n, const StartOptions& o,
                 CodeBuffer* code, FreeScales* out) {
  const F16 zero = Splat(0.0f);
  const F16 z = o.offset ? WeightedMean(w, omega, n) : zero;
  const F16 total = Splat(TotalOmega(omega, n));
  Store(out->z, z);
  for (int64_t k = 0; k < n; ++k) Store(code->row(k), SplatInt(0));
  F16 alpha[kMaxPlanes];
  for (int i = 0; i < o.q; ++i) {
    F16 sum = zero;
    for (int pass = 0; pass < 2; ++pass) {  // the scale of plane i first, then its bits
      for (int64_t k = 0; k < n; ++k) {
        F16 r = Load(w + k * kLanes) - z;
        const I16 c = LoadInt(code->row(k));
        for (int j = 0; j < i; ++j) {
          r = Select(HasBit(c, 1 << j), r - alpha[j], r + alpha[j]);
        }
        if (pass == 0) {
          sum = sum + Omega(omega, k) * Abs(r);
        } else {
          Store(code->row(k), Select(r >= zero, c | SplatInt(1 << i), c));
        }
      }
      if (pass == 0) alpha[i] = sum / total;
    }
    Store(out->alpha[i], alpha[i]);
  }
}

// One least squares step: scales (and z) from the codes. Lanes whose system is singular keep their
// scales.
void FitScales(const float* w, const float* omega, int64_t n, const StartOptions& o,
               CodeBuffer* code, FreeScales* scales) {
  const int r = o.q + (o.offset ? 1 : 0);
  const F16 one = Splat(1.0f), minus = Splat(-1.0f);
  F16 gram[kMaxUnknowns * kMaxUnknowns], rhs[kMaxUnknowns], b[kMaxUnknowns];
  for (int i = 0; i < r * r; ++i) gram[i] = Splat(0.0f);
  for (int i = 0; i < r; ++i) rhs[i] = Splat(0.0f);
  b[o.q] = one;
  for (int64_t k = 0; k < n; ++k) {
    const F16 weight = Omega(omega, k);
    const F16 value = Load(w + k * kLanes);
    const I16 c = LoadInt(code->row(k));
    for (int i = 0; i < o.q; ++i) b[i] = Select(HasBit(c, 1 << i), one, minus);
    for (int i = 0; i < r; ++i) {
      const F16 wb = weight * b[i];
      rhs[i] = rhs[i] + wb * value;
      for (int j = 0; j <= i; ++j) gram[i * r + j] = gram[i * r + j] + wb * b[j];
    }
  }
  float gram_lanes[kMaxUnknowns * kMaxUnknowns][kLanes], rhs_lanes[kMaxUnknowns][kLanes];
  for (int i = 0; i < r * r; ++i) Store(gram_lanes[i], gram[i]);
  for (int i = 0; i < r; ++i) Store(rhs_lanes[i], rhs[i]);
  for (int lane = 0; lane < kLanes; ++lane) {
    double a[kMaxUnknowns * kMaxUnknowns], x[kMaxUnknowns], diagonal = 0.0;
    for (int i = 0; i < r * r; ++i) a[i] = gram_lanes[i][lane];
    for (int i = 0; i < r; ++i) diagonal += a[i * r + i];
    for (int i = 0; i < r; ++i) {
      x[i] = rhs_lanes[i][lane];
      a[i * r + i] += 1e-5 * diagonal / r + 1e-12;
    }
    if (!SolveSpd(r, a, x)) continue;
    if (o.offset) scales->z[lane] = static_cast<float>(x[o.q]);
    for (int i = 0; i < o.q; ++i) {  // insertion sort of |x|, descending
      const float value = static_cast<float>(x[i] < 0.0 ? -x[i] : x[i]);
      int at = i;
      for (; at > 0 && scales->alpha[at - 1][lane] < value; --at) {
        scales->alpha[at][lane] = scales->alpha[at - 1][lane];
      }
      scales->alpha[at][lane] = value;
    }
  }
}

void ApplyApot(int q, int terms, FreeScales* scales) {
  if (terms <= 0) return;
  for (int i = 0; i < q; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) {
      scales->alpha[i][lane] = AdditivePowersOfTwo(scales->alpha[i][lane], terms);
    }
  }
}

void FreeLevels(int q, const FreeScales& scales, float (*level)[kLanes]) {
  for (int c = 0; c < (1 << q); ++c) {
    F16 sum = Splat(0.0f);
    for (int i = 0; i < q; ++i) {
      const F16 alpha = Load(scales.alpha[i]);
      sum = ((c >> i) & 1) != 0 ? sum + alpha : sum - alpha;
    }
    Store(level[c], sum + Load(scales.z));
  }
}

// Every weight takes the nearest level; between two, the higher.
void AssignCodes(const float* w, int64_t n, int q, const float (*level)[kLanes], CodeBuffer* code) {
  for (int64_t k = 0; k < n; ++k) {
    const F16 value = Load(w + k * kLanes);
    F16 best_level = Load(level[0]);
    F16 best = Abs(value - best_level);
    I16 best_code = SplatInt(0);
    for (int c = 1; c < (1 << q); ++c) {
      const F16 l = Load(level[c]);
      const F16 d = Abs(value - l);
      const I16 better = (d < best) | ((d == best) & (best_level < l));
      best = Select(better, d, best);
      best_level = Select(better, l, best_level);
      best_code = Select(better, SplatInt(c), best_code);
    }
    Store(code->row(k), best_code);
  }
}

void StartFree(const float* w, const float* omega, int64_t n, const StartOptions& options,
               FreeScales* out) {
  CodeBuffer code(n);
  float level[kMaxCodes][kLanes];
  GreedyStart(w, omega, n, options, &code, out);
  for (int t = 0; t < options.rounds; ++t) {
    FitScales(w, omega, n, options, &code, out);
    ApplyApot(options.q, options.apot_terms, out);
    FreeLevels(options.q, *out, level);
    if (t + 1 < options.rounds) AssignCodes(w, n, options.q, level, &code);
  }
}

// --- Shift scales ---

// The distinct sums of +-2^e_i in ascending order: the first, the steps between them, and the
// midpoints.
struct UnitGrid {
  int steps = 0;
  float first = 0.0f, total = 0.0f;  // total: sum of 2^e_i
  float step[kMaxCodes], mid[kMaxCodes];
};

float PowerOfTwoInt(int e) {
  const uint32_t bits = static_cast<uint32_t>(e + 127) << 23;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

UnitGrid MakeGrid(int q, const int8_t* exponents) {
  UnitGrid grid;
  float sorted[kMaxCodes] = {};
  for (int c = 0; c < (1 << q); ++c) {
    float u = 0.0f;
    for (int i = 0; i < q; ++i) {
      const float p = PowerOfTwoInt(exponents[i]);
      u += ((c >> i) & 1) != 0 ? p : -p;
    }
    int at = c;
    for (; at > 0 && sorted[at - 1] > u; --at) sorted[at] = sorted[at - 1];
    sorted[at] = u;
  }
  grid.first = sorted[0];
  grid.total = -sorted[0];
  for (int c = 1; c < (1 << q); ++c) {
    if (sorted[c] == sorted[c - 1]) continue;
    grid.step[grid.steps] = sorted[c] - sorted[c - 1];
    grid.mid[grid.steps] = 0.5f * (sorted[c] + sorted[c - 1]);
    ++grid.steps;
  }
  return grid;
}

// Sums over a group for the current s and z: u is the unit of the nearest level.
struct ShiftSums {
  F16 uu, uw, u, error;  // sums of w u^2, w u x, w u, w (x - s u - z)^2, with weights omega
};

ShiftSums SumShift(const float* w, const float* omega, int64_t n, bool offset, const UnitGrid& grid,
                   F16 s, F16 z) {
  float threshold[kMaxCodes][kLanes];
  for (int j = 0; j < grid.steps; ++j) Store(threshold[j], Splat(grid.mid[j]) * s);
  const F16 zero = Splat(0.0f);
  ShiftSums sums = {zero, zero, zero, zero};
  for (int64_t k = 0; k < n; ++k) {
    const F16 value = Load(w + k * kLanes);
    const F16 x = value - z;
    F16 u = Splat(grid.first);
    for (int j = 0; j < grid.steps; ++j) {
      u = u + Select(x >= Load(threshold[j]), Splat(grid.step[j]), zero);
    }
    const F16 wu = Omega(omega, k) * u;
    const F16 d = x - s * u;
    sums.uu = sums.uu + wu * u;
    sums.uw = sums.uw + wu * value;
    if (offset) sums.u = sums.u + wu;
    sums.error = sums.error + Omega(omega, k) * (d * d);
  }
  return sums;
}

// The least squares s (and z) for the sums of the last assignment. Singular lanes keep theirs.
void SolveShift(const ShiftSums& sums, bool offset, float total, const float* weighted_sum,
                float* s, float* z) {
  float uu[kLanes], uw[kLanes], u[kLanes];
  Store(uu, sums.uu);
  Store(uw, sums.uw);
  Store(u, sums.u);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int r = offset ? 2 : 1;
    const double mean = offset ? 0.5 * (uu[lane] + static_cast<double>(total)) : uu[lane];
    const double ridge = 1e-5 * mean + 1e-12;
    double x[2] = {uw[lane], weighted_sum[lane]};
    double a[4] = {uu[lane] + ridge, 0.0, 0.0, 0.0};
    if (offset) {
      a[2] = u[lane];
      a[3] = total + ridge;
    }
    if (!SolveSpd(r, a, x)) continue;
    s[lane] = static_cast<float>(x[0] < 0.0 ? -x[0] : x[0]);
    if (offset) z[lane] = static_cast<float>(x[1]);
  }
}

void StartShift(const float* w, const float* omega, int64_t n, const StartOptions& o,
                const kernels::ExponentTable& table, ShiftScales* out) {
  const float total = TotalOmega(omega, n);
  const float h = o.q == 2 ? 1.5f : o.q == 3 ? 2.05f : 2.5f;
  const F16 mean = WeightedMean(w, omega, n);
  const F16 z0 = o.offset ? mean : Splat(0.0f);
  float weighted_sum[kLanes], rms[kLanes], best[kLanes] = {};
  Store(weighted_sum, mean * Splat(total));
  F16 square = Splat(0.0f);
  for (int64_t k = 0; k < n; ++k) {
    const F16 r = Load(w + k * kLanes) - z0;
    square = square + Omega(omega, k) * (r * r);
  }
  Store(rms, square / Splat(total));
  for (int lane = 0; lane < kLanes; ++lane) rms[lane] = __builtin_sqrtf(rms[lane]);
  for (int set = 0; set < table.count; ++set) {
    const UnitGrid grid = MakeGrid(o.q, table.exponents[set]);
    float s[kLanes], z[kLanes], error[kLanes];
    Store(s, Splat(h) * Load(rms) / Splat(grid.total));
    Store(z, z0);
    ShiftSums sums = SumShift(w, omega, n, o.offset, grid, Load(s), Load(z));
    for (int t = 0; t < o.rounds; ++t) {
      SolveShift(sums, o.offset, total, weighted_sum, s, z);
      sums = SumShift(w, omega, n, o.offset, grid, Load(s), Load(z));
    }
    Store(error, sums.error);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (set > 0 && !(error[lane] < best[lane])) continue;
      best[lane] = error[lane];
      out->s[lane] = s[lane];
      out->z[lane] = z[lane];
      out->set[lane] = set;
    }
  }
}

// --- The loop inside a group ---

SA_INLINE void StoreCodes(uint8_t* out, I16 code) {
  int32_t lanes[kLanes];
  Store(lanes, code);
  for (int lane = 0; lane < kLanes; ++lane) out[lane] = static_cast<uint8_t>(lanes[lane]);
}

// The nearest level of one value a lane; the lowest code on a tie.
SA_INLINE void Nearest(F16 value, const Levels& levels, I16* code, F16* what) {
  F16 best_level = Load(levels.level[0]);
  F16 best = Abs(value - best_level);
  I16 best_code = SplatInt(0);
  for (int c = 1; c < (1 << levels.q); ++c) {
    const F16 l = Load(levels.level[c]);
    const F16 d = Abs(value - l);
    const I16 better = d < best;
    best = Select(better, d, best);
    best_level = Select(better, l, best_level);
    best_code = Select(better, SplatInt(c), best_code);
  }
  *code = best_code;
  *what = best_level;
}

void RoundGroup(float* v, int64_t n, const Levels& levels, const float* u, int64_t ldu,
                uint8_t* code, float* what, float* unit) {
  for (int64_t j = 0; j < n; ++j) {
    const F16 value = Load(v + j * kLanes);
    I16 c;
    F16 l;
    Nearest(value, levels, &c, &l);
    StoreCodes(code + j * kLanes, c);
    Store(what + j * kLanes, l);
    if (unit != nullptr) {
      for (int lane = 0; lane < kLanes; ++lane) {
        unit[j * kLanes + lane] = levels.unit[code[j * kLanes + lane]][lane];
      }
    }
    const float* row = u + j * ldu;
    const F16 e = (value - l) / Splat(row[j]);
    for (int64_t k = j + 1; k < n; ++k) {
      Store(v + k * kLanes, Load(v + k * kLanes) - e * Splat(row[k]));
    }
  }
}

void Descend(float* r, int64_t n, const Levels& levels, const float* h, int64_t ldh, float* what,
             uint8_t* code, float* moved) {
  for (int64_t j = 0; j < n; ++j) {
    const float* row = h + j * ldh;
    const F16 old = Load(what + j * kLanes);
    I16 c;
    F16 l;
    Nearest(old + Load(r + j * kLanes) / Splat(row[j]), levels, &c, &l);
    StoreCodes(code + j * kLanes, c);
    Store(what + j * kLanes, l);
    const F16 delta = l - old;
    Store(moved + j * kLanes, delta);
    for (int64_t k = 0; k < n; ++k) {
      Store(r + k * kLanes, Load(r + k * kLanes) - delta * Splat(row[k]));
    }
  }
}

void RoundColumn(const float* w, const Levels& levels, float ujj, uint8_t* code, float* what,
                 float* err) {
  const F16 value = Load(w);
  I16 c;
  F16 l;
  Nearest(value, levels, &c, &l);
  StoreCodes(code, c);
  Store(what, l);
  Store(err, (value - l) / Splat(ujj));
}

// --- Products ---

// acc[b] = sum_k x[k] r[k * ldr + b], k < n: B neighbouring columns of r at once.
template <int B>
SA_INLINE void Columns(const float* x, int64_t ldx, int64_t n, const float* r, int64_t ldr,
                       F16* acc) {
  for (int b = 0; b < B; ++b) acc[b] = Splat(0.0f);
  for (int64_t k = 0; k < n; ++k) {
    const F16 value = Load(x + k * ldx);
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) acc[b] = acc[b] + value * Splat(r[k * ldr + b]);
  }
}

constexpr int kColumns = SHIFTADD_VECTOR_WIDTH == 16 ? 8 : SHIFTADD_VECTOR_WIDTH == 8 ? 4 : 2;

void TriMul(const float* x, int64_t n, const float* r, int64_t ldr, float* out) {
  int64_t j = 0;
  for (; j + kColumns <= n; j += kColumns) {
    F16 acc[kColumns];
    Columns<kColumns>(x, kLanes, j + kColumns, r + j, ldr, acc);
    for (int b = 0; b < kColumns; ++b) Store(out + (j + b) * kLanes, acc[b]);
  }
  for (; j < n; ++j) {
    F16 acc[1];
    Columns<1>(x, kLanes, j + 1, r + j, ldr, acc);
    Store(out + j * kLanes, acc[0]);
  }
}

void Trail(const float* e, int64_t lde, int64_t n, const float* u, int64_t ldu, int64_t count,
           float* w, int64_t ldw) {
  int64_t c = 0;
  for (; c + kColumns <= count; c += kColumns) {
    F16 acc[kColumns];
    Columns<kColumns>(e, lde, n, u + c, ldu, acc);
    for (int b = 0; b < kColumns; ++b) {
      Store(w + (c + b) * ldw, Load(w + (c + b) * ldw) - acc[b]);
    }
  }
  for (; c < count; ++c) {
    F16 acc[1];
    Columns<1>(e, lde, n, u + c, ldu, acc);
    Store(w + c * ldw, Load(w + c * ldw) - acc[0]);
  }
}

void Dot(const float* a, const float* b, int64_t n, float* out) {
  F16 sum = Splat(0.0f);
  for (int64_t j = 0; j < n; ++j) sum = sum + Load(a + j * kLanes) * Load(b + j * kLanes);
  Store(out, sum);
}

void Axpy(const float* delta, const float* p, int64_t n, float* d) {
  const F16 scale = Load(delta);
  for (int64_t j = 0; j < n; ++j) {
    Store(d + j * kLanes, Load(d + j * kLanes) - scale * Load(p + j * kLanes));
  }
}

constexpr TileKernels kTileKernels = {StartFree, StartShift, RoundGroup, Descend, RoundColumn,
                                      TriMul,    Dot,        Axpy,       Trail};

}  // namespace
}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_TILE_IMPL_H_
