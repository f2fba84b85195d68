// Steps of the fit of a group of more than 128 inputs that are no products: what is left to
// quantize, and the refit of the scales in the group's metric. A warp takes a row of the group, or
// 32 inputs of one.
#include "kernels/cuda/quantize/elementwise.h"
#include "kernels/cuda/quantize/group_start.h"

namespace shiftadd::kernels::quantize {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// A warp takes a row.
__global__ void OmegaKernel(const float* r, int64_t ld, int64_t size, float* omega) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= size) return;
  float squares = 0.0f;
  for (int64_t c = threadIdx.x % 32; c < size; c += 32)
    squares += r[row * ld + c] * r[row * ld + c];
  squares = WarpSum(squares);
  if (threadIdx.x % 32 == 0) omega[row] = squares;
}

// A thread takes a column.
__global__ void OnesKernel(const float* r, int64_t ld, int64_t size, float* ones) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= size) return;
  float sum = 0.0f;
  for (int64_t i = 0; i <= column; ++i) sum += r[i * ld + column];
  ones[column] = sum;
}

__device__ __forceinline__ void StoreChunk(const LongFit& fit, int64_t row, int64_t column,
                                           float error) {
  float largest = fabsf(error);
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, mask));
  }
  float up, down;
  PairScale(__float_as_uint(largest), &up, &down);
  const int64_t at = row * fit.error.ld + column;
  StorePair(error * up, fit.error.hi + at, fit.error.lo + at);
  if (threadIdx.x % 32 == 0) fit.error_factor[row * fit.ld_factor + column / 32] = down;
}

__global__ void ErrorsKernel(const __grid_constant__ LongFit fit, bool best) {
  const WidthState& s = best ? fit.best : fit.now;
  const int64_t row = blockIdx.x, ld = best ? fit.ld_best : fit.ld_now;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const GroupWeights weights(s, row, 0);
  for (int64_t chunk = threadIdx.x / 32; chunk * 32 < s.k; chunk += kWarps) {
    const int64_t column = chunk * 32 + lane;
    const bool inside = column < s.k;
    const int code = inside ? s.codes[row * ld + column] : 0;
    const float unit = weights.Unit(code);
    StoreChunk(fit, row, column,
               inside ? fit.w[row * fit.ldw + column] - weights.Weight(unit) : 0.0f);
    if (best) continue;
    for (int i = 0; i < fit.planes(); ++i) {
      const float x = s.free_scales ? Sign(code, i) : unit;
      fit.design[(i * s.n + row) * fit.ld_design + column] = __float2half_rn(inside ? x : 0.0f);
    }
  }
}

__global__ void SplitKernel(const __grid_constant__ LongFit fit) {
  const int64_t row = blockIdx.x, k = fit.now.k;
  for (int64_t chunk = threadIdx.x / 32; chunk * 32 < k; chunk += kWarps) {
    const int64_t column = chunk * 32 + threadIdx.x % 32;
    StoreChunk(fit, row, column, column < k ? fit.d[row * k + column] : 0.0f);
  }
}

// Q: planes of free scales (0: any), 1: shift.
template <int Q>
__global__ void __launch_bounds__(kThreads)
    RefitKernel(const __grid_constant__ LongFit fit, bool first, bool last) {
  constexpr int kPlanes = Q == 0 ? 8 : Q, kMax = kPlanes + 1;
  const WidthState& now = fit.now;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= now.n) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int planes = Q == 0 ? now.q : Q, unknowns = planes + (now.has_offset ? 1 : 0);
  const float* d = fit.d + row * now.k;
  const auto load = [&](int64_t c, float(&x)[kMax]) {
#pragma unroll
    for (int i = 0; i < kMax; ++i) {
      x[i] = 0.0f;
      if (i < planes) {
        x[i] = fit.p[(i * now.n + row) * now.k + c];
      } else if (i == planes && now.has_offset) {
        x[i] = fit.ones[c];
      }
    }
  };
  float cross[kMax][kMax], rhs[kMax];
#pragma unroll
  for (int i = 0; i < kMax; ++i) {
    rhs[i] = 0.0f;
#pragma unroll
    for (int j = 0; j < kMax; ++j) cross[i][j] = 0.0f;
  }
  for (int64_t c = lane; c < now.k; c += 32) {
    float x[kMax];
    load(c, x);
    const float value = d[c];
#pragma unroll
    for (int i = 0; i < kMax; ++i) {
      rhs[i] += x[i] * value;
#pragma unroll
      for (int j = 0; j < kMax; ++j) {
        if (j <= i) cross[i][j] += x[i] * x[j];
      }
    }
  }
  double a[kMax][kMax], x[kMax], mean = 0.0;
#pragma unroll
  for (int i = 0; i < kMax; ++i) {
    x[i] = 0.0;
    if (i >= unknowns) continue;
    x[i] = WarpSum(rhs[i]);
#pragma unroll
    for (int j = 0; j < kMax; ++j) {
      if (j <= i) a[i][j] = WarpSum(cross[i][j]);
    }
    mean += a[i][i] / unknowns;
  }
#pragma unroll
  for (int i = 0; i < kMax; ++i) {
    if (i < unknowns) a[i][i] += kRefitRidge * mean;
  }
  SolveSmall<kMax>(unknowns, a, x);
  float delta[kMax], sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kMax; ++i) delta[i] = i < unknowns ? static_cast<float>(x[i]) : 0.0f;
  for (int64_t c = lane; c < now.k; c += 32) {
    float p[kMax], rest = d[c];
    load(c, p);
#pragma unroll
    for (int i = 0; i < kMax; ++i) rest -= delta[i] * p[i];
    sum += rest * rest;
  }
  const float loss = WarpSum(sum);
  const bool better = first || loss < fit.best_loss[row];
  __syncwarp();
  float* scale = now.scale + row * now.groups * planes;
  const WidthState& best = fit.best;
  const int64_t kept = row * best.groups;
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < kMax; ++i) {
      if (i >= planes) continue;
      scale[i] += delta[i];
      if (better) best.scale[kept * planes + i] = scale[i];
    }
    if (now.has_offset) {
      float change = 0.0f;
#pragma unroll
      for (int i = 0; i < kMax; ++i) {
        if (i == planes) change = delta[i];
      }
      now.offset[row * now.groups] += change;
      if (better) best.offset[kept] = now.offset[row * now.groups];
    }
    if (better && !now.free_scales) best.set[kept] = now.set[row * now.groups];
    if (better) fit.best_loss[row] = loss;
    if (last && best.loss != nullptr) best.loss[row] += fit.best_loss[row];
  }
  if (!better) return;
  const uint8_t* from = now.codes + row * fit.ld_now;
  uint8_t* to = best.codes + row * fit.ld_best;
  for (int64_t c = lane; c < now.k; c += 32) to[c] = from[c];
}

}  // namespace

cudaError_t LaunchLongMetric(const float* r, int64_t ld, int64_t size, float* omega, float* ones,
                             cudaStream_t stream) {
  const cudaError_t error =
      Launch(OmegaKernel, dim3(static_cast<unsigned>((size + kWarps - 1) / kWarps)), kThreads, 0,
             stream, r, ld, size, omega);
  if (error != cudaSuccess) return error;
  return Launch(OnesKernel, dim3(static_cast<unsigned>((size + kThreads - 1) / kThreads)), kThreads,
                0, stream, r, ld, size, ones);
}

cudaError_t LaunchLongErrors(const LongFit& fit, bool best, cudaStream_t stream) {
  return Launch(ErrorsKernel, dim3(static_cast<unsigned>(fit.now.n)), kThreads, 0, stream, fit,
                best);
}

cudaError_t LaunchLongSplit(const LongFit& fit, cudaStream_t stream) {
  return Launch(SplitKernel, dim3(static_cast<unsigned>(fit.now.n)), kThreads, 0, stream, fit);
}

cudaError_t LaunchLongRefit(const LongFit& fit, bool first, bool last, cudaStream_t stream) {
  const int q = fit.planes();
  const auto kernel = q == 1   ? RefitKernel<1>
                      : q == 2 ? RefitKernel<2>
                      : q == 3 ? RefitKernel<3>
                      : q == 4 ? RefitKernel<4>
                               : RefitKernel<0>;
  return Launch(kernel, dim3(static_cast<unsigned>((fit.now.n + kWarps - 1) / kWarps)), kThreads, 0,
                stream, fit, first, last);
}

}  // namespace shiftadd::kernels::quantize
