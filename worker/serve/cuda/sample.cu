#include "worker/serve/cuda/sample.h"

namespace shiftadd::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kGreedy = 1e-6f;

struct Best {
  float top;
  int32_t at;
};
// The larger one; of equals the first. -1 is nothing.
__device__ Best Better(Best a, Best b) {
  if (b.at < 0) return a;
  if (a.at < 0 || b.top > a.top || (b.top == a.top && b.at < a.at)) return b;
  return a;
}

__device__ Best BestOfBlock(Best best) {
  __shared__ Best of[kThreads / 32];
  for (int o = 16; o > 0; o /= 2) {
    best = Better(best, {__shfl_xor_sync(~0u, best.top, o), __shfl_xor_sync(~0u, best.at, o)});
  }
  if (threadIdx.x % 32 == 0) of[threadIdx.x / 32] = best;
  __syncthreads();
  best = of[0];
  for (int w = 1; w < kThreads / 32; ++w) best = Better(best, of[w]);
  __syncthreads();
  return best;
}

// Sums in the order of threads; `before` is that of the threads below.
__device__ double SumOfBlock(double sum, double* before) {
  __shared__ double of[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double inclusive = sum;
  for (int o = 1; o < 32; o *= 2) {
    const double lower = __shfl_up_sync(~0u, inclusive, o);
    if (lane >= o) inclusive += lower;
  }
  if (lane == 31) of[warp] = inclusive;
  __syncthreads();
  double offset = 0, total = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w == warp) offset = total;
    total += of[w];
  }
  __syncthreads();
  *before = offset + (inclusive - sum);
  return total;
}

__device__ float Weight(float logit, float top, float inverse_temperature) {
  return isnan(logit) ? 0.0f : expf((logit - top) * inverse_temperature);
}

struct Slice {
  int64_t begin, end;
};
__device__ Slice SliceOf(int64_t vocab, int part) {
  const int64_t size = (vocab + kSampleParts - 1) / kSampleParts;
  const int64_t begin = min(size * part, vocab);
  return {begin, min(begin + size, vocab)};
}

__global__ void __launch_bounds__(kThreads) PartKernel(const __grid_constant__ SampleParams p) {
  const int64_t row = blockIdx.y;
  const float* logits = p.logits + row * p.vocab;
  const Slice slice = SliceOf(p.vocab, blockIdx.x);
  Best best = {-INFINITY, -1};
  for (int64_t i = slice.begin + threadIdx.x; i < slice.end; i += kThreads) {
    if (!isnan(logits[i])) best = Better(best, {logits[i], static_cast<int32_t>(i)});
  }
  best = BestOfBlock(best);
  const float temperature = p.temperature[row];
  double sum = 0, before = 0;
  if (temperature >= kGreedy && isfinite(best.top)) {
    for (int64_t i = slice.begin + threadIdx.x; i < slice.end; i += kThreads) {
      sum += Weight(logits[i], best.top, 1 / temperature);
    }
    sum = SumOfBlock(sum, &before);
  }
  if (threadIdx.x == 0) p.parts[row * kSampleParts + blockIdx.x] = {sum, best.top, best.at};
}

// The first token of the slice at which the running sum of weights exceeds `draw`; the last one
// with a weight if rounding keeps it below.
__device__ void FindInSlice(const float* logits, Slice slice, float top, float inverse_temperature,
                            double draw, int32_t* token) {
  __shared__ int32_t first, last;
  if (threadIdx.x == 0) first = INT32_MAX, last = -1;
  __syncthreads();
  // Every thread has neighbours: running sums are in the order of tokens.
  const int64_t each = (slice.end - slice.begin + kThreads - 1) / kThreads;
  const int64_t begin = min(slice.begin + each * threadIdx.x, slice.end);
  const int64_t end = min(begin + each, slice.end);
  double sum = 0, running = 0;
  for (int64_t i = begin; i < end; ++i) sum += Weight(logits[i], top, inverse_temperature);
  SumOfBlock(sum, &running);
  for (int64_t i = begin; i < end; ++i) {
    const float weight = Weight(logits[i], top, inverse_temperature);
    if (weight <= 0) continue;
    running += weight;
    atomicMax(&last, static_cast<int32_t>(i));
    if (running > draw) {
      atomicMin(&first, static_cast<int32_t>(i));
      break;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) *token = first != INT32_MAX ? first : last;
}

__global__ void __launch_bounds__(kThreads) PickKernel(const __grid_constant__ SampleParams p) {
  __shared__ double draw;  // what is left of it in the chosen part
  __shared__ int chosen;
  const int64_t row = blockIdx.x;
  const SamplePart* parts = p.parts + row * kSampleParts;
  Best best = {-INFINITY, -1};
  if (threadIdx.x < kSampleParts) best = {parts[threadIdx.x].top, parts[threadIdx.x].best};
  best = BestOfBlock(best);
  const float temperature = p.temperature[row];
  if (best.at < 0 || best.top == -INFINITY || best.top == INFINITY || temperature < kGreedy) {
    if (threadIdx.x == 0) p.tokens[row] = best.top == -INFINITY ? -1 : best.at;
    return;
  }
  const float inverse = 1 / temperature;
  if (threadIdx.x == 0) {
    const auto weight = [&](int part) {
      return parts[part].best < 0
                 ? 0.0
                 : parts[part].sum * exp(double{parts[part].top - best.top} / double{temperature});
    };
    double total = 0;
    for (int i = 0; i < kSampleParts; ++i) total += weight(i);
    double left = p.uniform[row] * total;
    chosen = -1;
    for (int i = 0; i < kSampleParts; ++i) {
      const double of = weight(i);
      if (of <= 0) continue;
      chosen = i;
      if (left < of) break;
      left -= of;
    }
    // In the part's own unit.
    draw = left * (parts[chosen].sum / weight(chosen));
  }
  __syncthreads();
  FindInSlice(p.logits + row * p.vocab, SliceOf(p.vocab, chosen), parts[chosen].top, inverse, draw,
              p.tokens + row);
}

}  // namespace

cudaError_t LaunchSample(const SampleParams& p, int64_t rows, cudaStream_t stream) {
  PartKernel<<<dim3(kSampleParts, static_cast<unsigned>(rows)), kThreads, 0, stream>>>(p);
  PickKernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace shiftadd::cuda
