// The weighted start of a group of more than 128 inputs: what group_start.h does with a row in
// registers, with a warp that reads its row again in every round. Rounds end early at a row's fixed
// point.
#include "kernels/cuda/quantize/elementwise.h"
#include "kernels/cuda/quantize/group_start.h"
#include "kernels/cuda/quantize/shift_grids.h"

namespace shiftadd::kernels::quantize {
namespace {

constexpr int kWarps = 4;

struct StartWork {
  LongFit fit;
  int rounds = 0;
  ShiftGrids grids;
};

// The row that a warp is at. The last inputs of a warp may lie beyond the group: zeros of no
// weight, so that all lanes go on together.
struct WarpRow {
  const float* w;
  const float* omega;
  int64_t size;
  float total = 0.0f, weighted_sum = 0.0f;  // of omega, of omega w

  __device__ WarpRow(const LongFit& fit, int64_t row)
      : w(fit.w + row * fit.ldw), omega(fit.omega), size(fit.now.k) {
    Each([&](int64_t, float weight, float x) {
      total += weight;
      weighted_sum += weight * x;
    });
    total = WarpSum(total);
    weighted_sum = WarpSum(weighted_sum);
  }
  // step(input, omega, w) for every input of this lane.
  template <class Step>
  __device__ __forceinline__ void Each(const Step& step) const {
    for (int64_t c = threadIdx.x % 32; c < (size + 31) / 32 * 32; c += 32) {
      step(c, c < size ? omega[c] : 0.0f, c < size ? w[c] : 0.0f);
    }
  }
};

template <int Q>
__device__ void StartRowShift(const StartWork& work, const WarpRow& row, int q, bool offset,
                              RowScales<Q, true>* out) {
  const ShiftGrids& grids = work.grids;
  const float z0 = offset ? row.weighted_sum / row.total : 0.0f;
  float square = 0.0f, best = kInfinity;
  row.Each([&](int64_t, float omega, float w) { square += omega * ((w - z0) * (w - z0)); });
  const float rms = sqrtf(WarpSum(square) / row.total);
  const int sets = Q == 0 ? 1 : grids.q[Q == 0 ? 0 : Q - 2].count;
  for (int set = 0; set < sets; ++set) {
    float s, z = z0;
    if constexpr (Q == 0) {
      s = 2.5f * rms / (2.0f - ldexpf(1.0f, 1 - q));
    } else {
      s = grids.q[Q - 2].start * rms / grids.q[Q - 2].total[set];
    }
    UnitSearch<Q> search;
    search.SetTable(q, grids, set);
    for (int t = 0; t < work.rounds; ++t) {
      search.SetScale(grids, set, s);
      float uu = 0.0f, uw = 0.0f, sum = 0.0f;
      row.Each([&](int64_t, float omega, float w) {
        const float x = w - z;
        const float u = copysignf(search.Find(fabsf(x)), x);
        const float wu = omega * u;
        uu += wu * u;
        uw += wu * w;
        sum += wu;
      });
      uu = WarpSum(uu);
      uw = WarpSum(uw);
      sum = WarpSum(sum);
      const float s_before = s, z_before = z;
      SolveShift(uu, uw, sum, row.total, row.weighted_sum, offset, &s, &z);
      if (s == s_before && z == z_before) break;  // all lanes have the same
    }
    search.SetScale(grids, set, s);
    float error = 0.0f;
    row.Each([&](int64_t, float omega, float w) {
      const float x = fabsf(w - z);
      const float d = x - s * search.Find(x);
      error += omega * (d * d);
    });
    error = WarpSum(error);
    if (set > 0 && !(error < best)) continue;
    best = error;
    out->alpha[0] = s;
    out->z = z;
    out->set = set;
  }
}

// The least squares scales for a row's codes.
template <int Q>
__device__ void FitRowFree(const WarpRow& row, const uint8_t* codes, int q, bool offset,
                           RowScales<Q, false>* scales) {
  constexpr int kPlanes = Width<Q>::kPlanes, kMax = kPlanes + 1;
  float cross[kPlanes][kPlanes], ones[kPlanes], rhs[kPlanes];
#pragma unroll
  for (int i = 0; i < kPlanes; ++i) {
    ones[i] = rhs[i] = 0.0f;
#pragma unroll
    for (int j = 0; j < kPlanes; ++j) cross[i][j] = 0.0f;
  }
  row.Each([&](int64_t c, float omega, float w) {
    const int code = c < row.size ? codes[c] : 0;
#pragma unroll
    for (int i = 0; i < kPlanes; ++i) {
      if (i >= q) continue;
      const float wb = omega * Sign(code, i);
      ones[i] += wb;
      rhs[i] += wb * w;
#pragma unroll
      for (int j = 0; j < kPlanes; ++j) {
        if (j < i) cross[i][j] += wb * Sign(code, j);
      }
    }
  });
  double a[kMax][kMax], x[kMax];
#pragma unroll
  for (int i = 0; i < kMax; ++i) {
    x[i] = 0.0;
    if (i > q || (i == q && !offset)) continue;
    x[i] = i == q ? row.weighted_sum : WarpSum(rhs[i < kPlanes ? i : 0]);
    a[i][i] = row.total + (1e-5 * row.total + 1e-12);
#pragma unroll
    for (int j = 0; j < kPlanes; ++j) {
      if (j < i) a[i][j] = WarpSum(i == q ? ones[j] : cross[i < kPlanes ? i : 0][j]);
    }
  }
  SolveFree<Q>(q, offset, a, x, scales);
}

template <int Q, bool kTuned>
__device__ void StartRowFree(const StartWork& work, const WarpRow& row, uint8_t* codes, int q,
                             bool offset, const LevelTables<kTuned>& tables,
                             RowScales<Q, false>* out) {
  constexpr int kPlanes = Width<Q>::kPlanes;
  // All four eights of lanes make the same table, each its own.
  const LanePlace place = MyPlace();
  RowScales<Q, false> scales;
  scales.z = offset ? row.weighted_sum / row.total : 0.0f;
  for (int i = 0; i < q; ++i) {  // greedy: the scale of plane i, then its bits
    float sum = 0.0f, alpha = 0.0f;
    for (int pass = 0; pass < 2; ++pass) {
      row.Each([&](int64_t c, float omega, float w) {
        float rest = w - scales.z;
        int code = 0;
#pragma unroll
        for (int p = 0; p < kPlanes; ++p) {
          if (p >= i) continue;
          const bool up = rest >= 0.0f;
          if (up) code |= 1 << p;
          rest -= up ? scales.alpha[p] : -scales.alpha[p];
        }
        if (pass == 0) {
          sum += omega * fabsf(rest);
        } else if (c < row.size) {
          codes[c] = static_cast<uint8_t>(code | (rest >= 0.0f ? 1 << i : 0));
        }
      });
      if (pass == 0) alpha = WarpSum(sum) / row.total;
    }
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      if (p == i) scales.alpha[p] = alpha;
    }
  }
  for (int t = 0; t < work.rounds; ++t) {
    FitRowFree<Q>(row, codes, q, offset, &scales);
    if (t + 1 == work.rounds) break;
    BuildLevels<Q, false, kTuned, false>(place, 0, q, scales, work.grids, tables);
    const float* threshold = tables.threshold(place.row(0));
    const uint8_t* code_of = tables.code(place.row(0));
    bool moved = false;
    row.Each([&](int64_t c, float, float w) {
      if (c >= row.size) return;
      int at = 0;
      for (int step = 1 << q >> 1; step > 0; step >>= 1) {
        if (w >= threshold[at + step - 1]) at += step;
      }
      moved = moved || codes[c] != code_of[at];
      codes[c] = code_of[at];
    });
    if (__all_sync(kAllLanes, !moved)) break;
  }
  *out = scales;
}

template <int Q, bool kShift, bool kTuned>
__device__ void StartRow(const StartWork& work, int64_t index) {
  const WidthState& now = work.fit.now;
  const int q = Q == 0 ? now.q : Q;
  const WarpRow row(work.fit, index);
  RowScales<Q, kShift> scales;
  if constexpr (kShift) {
    StartRowShift<Q>(work, row, q, now.has_offset, &scales);
  } else {
    LevelTables<kTuned> tables;
    tables.base = DynamicShared() + threadIdx.x / 32 * LevelTables<kTuned>::kBytes;
    StartRowFree<Q, kTuned>(work, row, now.codes + index * work.fit.ld_now, q, now.has_offset,
                            tables, &scales);
  }
  if (threadIdx.x % 32 != 0) return;
  const int64_t at = index * now.groups;
  if constexpr (kShift) {
    now.scale[at] = scales.alpha[0];
    now.set[at] = static_cast<uint8_t>(scales.set);
  } else {
#pragma unroll
    for (int i = 0; i < Width<Q>::kPlanes; ++i) {
      if (i < q) now.scale[at * q + i] = scales.alpha[i];
    }
  }
  if (now.has_offset) now.offset[at] = scales.z;
}

template <bool kShift, bool kTuned>
__global__ void __launch_bounds__(kWarps * 32) StartKernel(const __grid_constant__ StartWork work) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= work.fit.now.n) return;
  if constexpr (!kTuned) {
    StartRow<0, kShift, false>(work, row);
  } else if (work.fit.now.q == 2) {
    StartRow<2, kShift, true>(work, row);
  } else if (work.fit.now.q == 3) {
    StartRow<3, kShift, true>(work, row);
  } else {
    StartRow<4, kShift, true>(work, row);
  }
}

template <bool kShift, bool kTuned>
cudaError_t LaunchKind(const StartWork& work, cudaStream_t stream) {
  return Launch(StartKernel<kShift, kTuned>,
                dim3(static_cast<unsigned>((work.fit.now.n + kWarps - 1) / kWarps)), kWarps * 32,
                kShift ? 0 : kWarps * LevelTables<kTuned>::kBytes, stream, work);
}

}  // namespace

cudaError_t LaunchLongStart(const LongFit& fit, int rounds, cudaStream_t stream) {
  const StartWork work = {fit, rounds, MakeShiftGrids()};
  const bool tuned = fit.now.q >= 2 && fit.now.q <= 4;
  if (fit.now.free_scales) {
    return tuned ? LaunchKind<false, true>(work, stream) : LaunchKind<false, false>(work, stream);
  }
  return tuned ? LaunchKind<true, true>(work, stream) : LaunchKind<true, false>(work, stream);
}

}  // namespace shiftadd::kernels::quantize
