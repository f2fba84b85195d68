// The weighted start of a group: alternating least squares on rows held by lanes (row_lanes.h).
// Rounds end early when a whole warp has reached its fixed point; more would change nothing.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_GROUP_START_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_GROUP_START_H_

#include "kernels/cuda/quantize/row_lanes.h"

namespace shiftadd::kernels::quantize {

inline constexpr double kRefitRidge = 1e-4;  // of the refit inside a group, in mean diagonals

// What both starts need.
struct StartInput {
  const float* omega;  // shared, [kColumns] as ColumnAt says; 0 beyond the group
  int q;
  int rounds;
  bool offset;
};

template <int C>
__device__ __forceinline__ void LoadOmega(const LanePlace& place, const float* omega,
                                          float (&out)[C]) {
#pragma unroll
  for (int m = 0; m < C; m += 4) {
    const float4 four = *reinterpret_cast<const float4*>(omega + m * 8 + place.lane8 * 4);
    out[m] = four.x;
    out[m + 1] = four.y;
    out[m + 2] = four.z;
    out[m + 3] = four.w;
  }
}

// ---- Shift scales -------------------------------------------------------------------------------

// Units of the nearest level for a value whose distance from the offset is `a` >= 0. On a midpoint
// the larger.
template <int Q>
struct UnitSearch {
  static constexpr float kWhole = 8388608.0f;  // 2^23: floats from here on are whole numbers
  float per_step = 0.0f;                       // steps in a weight of 1
  float held = 0.0f;                      // Q != 0: this lane's entry of the table by whole part
  float smallest = 0.0f, largest = 0.0f;  // Q == 0: the uniform grid

  __device__ __forceinline__ void SetTable(int q, const ShiftGrids& grids, int set) {
    if constexpr (Q == 0) {
      smallest = __uint_as_float(static_cast<unsigned>(127 + 1 - q) << 23);
      largest = 2.0f - smallest;
    } else {
      held = grids.q[Q - 2].nearest[set][threadIdx.x % 32];
    }
  }
  __device__ __forceinline__ void SetScale(const ShiftGrids& grids, int set, float s) {
    if constexpr (Q == 0) {
      per_step = 0.5f / (s * smallest);
    } else {
      per_step = grids.q[Q - 2].per_step[set] / s;
    }
  }
  __device__ __forceinline__ float Find(float a) const {
    if constexpr (Q == 0) {
      return fminf((2.0f * floorf(a * per_step) + 1.0f) * smallest, largest);
    } else {
      const float whole = fminf(__fmaf_rd(a, per_step, kWhole), kWhole + 31.0f);
      return __shfl_sync(kAllLanes, held, static_cast<int>(__float_as_uint(whole) & 31u));
    }
  }
};

// The least squares s (and z) for the sums of an assignment; unchanged if they are singular.
__device__ __forceinline__ void SolveShift(float uu, float uw, float u, float total,
                                           float weighted_sum, bool offset, float* s, float* z) {
  if (!offset) {
    const float x = uw / (uu + (1e-5f * uu + 1e-12f));
    if (uu + 1e-12f > 0.0f && fabsf(x) < kInfinity) *s = fabsf(x);
    return;
  }
  const double ridge = 1e-5 * (0.5 * (static_cast<double>(uu) + total)) + 1e-12;
  double a[2][2] = {{uu + ridge, 0.0}, {u, total + ridge}}, x[2] = {uw, weighted_sum};
  if (!SolveSmall<2>(2, a, x)) return;
  *s = static_cast<float>(fabs(x[0]));
  *z = static_cast<float>(x[1]);
}

template <int Q, int C>
__device__ void StartShift(const LanePlace& place, const StartInput& in, const ShiftGrids& grids,
                           const float (&w)[kRows][C], RowScales<Q, true> (&out)[kRows]) {
  float omega[C], total = 0.0f;
  LoadOmega<C>(place, in.omega, omega);
#pragma unroll
  for (int m = 0; m < C; ++m) total += omega[m];
  total = RowSum(total);
  float z0[kRows], weighted_sum[kRows], rms[kRows], best[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int m = 0; m < C; ++m) sum += omega[m] * w[r][m];
    weighted_sum[r] = RowSum(sum);
    z0[r] = in.offset ? weighted_sum[r] / total : 0.0f;
#pragma unroll
    for (int m = 0; m < C; ++m) square += omega[m] * ((w[r][m] - z0[r]) * (w[r][m] - z0[r]));
    rms[r] = sqrtf(RowSum(square) / total);
    best[r] = kInfinity;
  }
  const int sets = Q == 0 ? 1 : grids.q[Q == 0 ? 0 : Q - 2].count;
  for (int set = 0; set < sets; ++set) {
    float s[kRows], z[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if constexpr (Q == 0) {
        s[r] = 2.5f * rms[r] / (2.0f - ldexpf(1.0f, 1 - in.q));
      } else {
        s[r] = grids.q[Q - 2].start * rms[r] / grids.q[Q - 2].total[set];
      }
      z[r] = z0[r];
    }
    UnitSearch<Q> search;
    search.SetTable(in.q, grids, set);
    for (int t = 0; t < in.rounds; ++t) {
      bool moved = false;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        search.SetScale(grids, set, s[r]);
        float uu = 0.0f, uw = 0.0f, u_sum = 0.0f;
        if (in.offset) {
#pragma unroll
          for (int m = 0; m < C; ++m) {
            const float x = w[r][m] - z[r];
            const float u = copysignf(search.Find(fabsf(x)), x);
            const float wu = omega[m] * u;
            uu += wu * u;
            uw += wu * w[r][m];
            u_sum += wu;
          }
          u_sum = RowSum(u_sum);
        } else {  // signs cancel
#pragma unroll
          for (int m = 0; m < C; ++m) {
            const float u = search.Find(fabsf(w[r][m]));
            const float wu = omega[m] * u;
            uu += wu * u;
            uw += wu * fabsf(w[r][m]);
          }
        }
        uu = RowSum(uu);
        uw = RowSum(uw);
        const float s_before = s[r], z_before = z[r];
        SolveShift(uu, uw, u_sum, total, weighted_sum[r], in.offset, &s[r], &z[r]);
        moved = moved || s[r] != s_before || z[r] != z_before;
      }
      if (__all_sync(kAllLanes, !moved)) break;
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      search.SetScale(grids, set, s[r]);
      float error = 0.0f;
#pragma unroll
      for (int m = 0; m < C; ++m) {
        const float x = fabsf(w[r][m] - z[r]);
        const float d = x - s[r] * search.Find(x);
        error += omega[m] * (d * d);
      }
      error = RowSum(error);
      if (set > 0 && !(error < best[r])) continue;
      best[r] = error;
      out[r].alpha[0] = s[r];
      out[r].z = z[r];
      out[r].set = set;
    }
  }
}

// ---- Free scales --------------------------------------------------------------------------------

__device__ __forceinline__ float Sign(int code, int i) {  // of plane i: +1 or -1
  return __uint_as_float(0x3f800000u | (static_cast<unsigned>(~code >> i) & 1u) << 31);
}

// Solves the equations of a least squares step: scales |x| descending, unchanged if they are
// singular.
template <int Q>
__device__ __forceinline__ void SolveFree(int q, bool offset,
                                          double (&a)[Width<Q>::kPlanes + 1][Width<Q>::kPlanes + 1],
                                          double (&x)[Width<Q>::kPlanes + 1],
                                          RowScales<Q, false>* scales) {
  constexpr int kMax = Width<Q>::kPlanes + 1;
  if (!SolveSmall<kMax>(q + (offset ? 1 : 0), a, x)) return;
  if (offset) {
#pragma unroll
    for (int i = 0; i < kMax; ++i) {
      if (i == q) scales->z = static_cast<float>(x[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kMax - 1; ++i) {
    if (i < q) scales->alpha[i] = static_cast<float>(fabs(x[i]));
  }
#pragma unroll
  for (int pass = 0; pass < kMax - 2; ++pass) {  // a few values: bubble sort in registers
#pragma unroll
    for (int i = 0; i + 1 < kMax - 1; ++i) {
      if (i + 1 >= q) continue;
      const float high = fmaxf(scales->alpha[i], scales->alpha[i + 1]);
      scales->alpha[i + 1] = fminf(scales->alpha[i], scales->alpha[i + 1]);
      scales->alpha[i] = high;
    }
  }
}

// One least squares step from the codes of a row.
template <int Q, int C>
__device__ void FitFree(const StartInput& in, const float (&w)[C], const float (&omega)[C],
                        float total, float weighted_sum, const CodeWords<Q, C>& codes,
                        RowScales<Q, false>* scales) {
  constexpr int kMax = Width<Q>::kPlanes + 1;
  const int q = Q == 0 ? in.q : Q, unknowns = q + (in.offset ? 1 : 0);
  // Sums of omega b_i b_j below the diagonal, omega b_i, and omega b_i w.
  float cross[kMax][kMax], ones[kMax], rhs[kMax];
#pragma unroll
  for (int i = 0; i < kMax; ++i) {
    ones[i] = rhs[i] = 0.0f;
#pragma unroll
    for (int j = 0; j < kMax; ++j) cross[i][j] = 0.0f;
  }
#pragma unroll
  for (int m = 0; m < C; ++m) {
    const int code = codes.Get(m);
#pragma unroll
    for (int i = 0; i < kMax - 1; ++i) {
      if (i >= q) continue;
      const float wb = omega[m] * Sign(code, i);
      ones[i] += wb;
      rhs[i] += wb * w[m];
#pragma unroll
      for (int j = 0; j < kMax - 1; ++j) {
        if (j < i) cross[i][j] += wb * Sign(code, j);
      }
    }
  }
  double a[kMax][kMax], x[kMax];
#pragma unroll
  for (int i = 0; i < kMax; ++i) {
    x[i] = 0.0;
    if (i >= unknowns) continue;
    const bool z = i == q;
    x[i] = z ? weighted_sum : RowSum(rhs[i]);
    a[i][i] = total + (1e-5 * total + 1e-12);
#pragma unroll
    for (int j = 0; j < kMax; ++j) {
      if (j < i) a[i][j] = RowSum(z ? ones[j] : cross[i][j]);
    }
  }
  SolveFree<Q>(q, in.offset, a, x, scales);
}

template <int Q, int C, bool kTuned>
__device__ void StartFree(const LanePlace& place, const StartInput& in, const ShiftGrids& grids,
                          const LevelTables<kTuned>& tables, const float (&w)[kRows][C],
                          RowScales<Q, false> (&out)[kRows]) {
  const int q = Q == 0 ? in.q : Q;
  float omega[C], total = 0.0f;
  LoadOmega<C>(place, in.omega, omega);
#pragma unroll
  for (int m = 0; m < C; ++m) total += omega[m];
  total = RowSum(total);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float weighted_sum = 0.0f, residual[C];
#pragma unroll
    for (int m = 0; m < C; ++m) weighted_sum += omega[m] * w[r][m];
    weighted_sum = RowSum(weighted_sum);
    RowScales<Q, false> scales;
    scales.z = in.offset ? weighted_sum / total : 0.0f;
    CodeWords<Q, C> codes;
#pragma unroll
    for (int m = 0; m < C; ++m) residual[m] = w[r][m] - scales.z;
    for (int i = 0; i < q; ++i) {  // greedy
      float sum = 0.0f;
#pragma unroll
      for (int m = 0; m < C; ++m) sum += omega[m] * fabsf(residual[m]);
      const float alpha = RowSum(sum) / total;
#pragma unroll
      for (int p = 0; p < Width<Q>::kPlanes; ++p) {
        if (p == i) scales.alpha[p] = alpha;
      }
#pragma unroll
      for (int m = 0; m < C; ++m) {
        const bool up = residual[m] >= 0.0f;
        if (up) codes.Put(m, 1 << i);
        residual[m] -= up ? alpha : -alpha;
      }
    }
    for (int t = 0; t < in.rounds; ++t) {
      FitFree<Q, C>(in, w[r], omega, total, weighted_sum, codes, &scales);
      if (t + 1 == in.rounds) break;
      BuildLevels<Q, false, kTuned, false>(place, r, q, scales, grids, tables);
      const float* threshold = tables.threshold(place.row(r));
      const uint8_t* code_of = tables.code(place.row(r));
      CodeWords<Q, C> next;
      int at[C];
#pragma unroll
      for (int m = 0; m < C; ++m) at[m] = 0;
      for (int p = 0; p + 1 < 1 << q; ++p) {
        const float bound = threshold[p];
#pragma unroll
        for (int m = 0; m < C; ++m) at[m] += w[r][m] >= bound ? 1 : 0;
      }
      bool moved = false;
#pragma unroll
      for (int m = 0; m < C; ++m) next.Put(m, code_of[at[m]]);
#pragma unroll
      for (unsigned i = 0; i < sizeof next.words / 4; ++i) {
        moved = moved || next.words[i] != codes.words[i];
      }
      codes = next;
      if (__all_sync(kAllLanes, !moved)) break;
    }
    out[r] = scales;
  }
}

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_GROUP_START_H_
