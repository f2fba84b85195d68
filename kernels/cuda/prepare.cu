// Activations to digits, in one kernel with what produces them. The float operations are those of
// rotation.cc and the CPU kernels' preparation, in their order, so the digits are the same bits.
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {
namespace {

constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds to even
constexpr float kTiny = 1e-30f;          // below this the reciprocal overflows: counts as zero

__constant__ float kNorms[8] = {1.0f,  0.70710678118654752f, 0.5f,   0.35355339059327376f,
                                0.25f, 0.17677669529663689f, 0.125f, 0.08838834764831845f};

// A warp's 128 inputs: lane l holds inputs 32 t + l, t = 0..3.
struct Half {
  float of[4];
};

__device__ __forceinline__ float LoadFloat(const float* p) {
  return __uint_as_float(LoadActivations4(reinterpret_cast<const uint32_t*>(p)));
}

// What does not depend on the kernel before: signs and, for RMSNorm, the norm's weights.
struct Constants {
  uint32_t signs[4];
  float weights[4];
};

__host__ __device__ constexpr bool IsNorm(Source source) {
  return source == Source::kRmsNorm || source == Source::kAddRmsNorm;
}

// x, or x + add.
template <Source kSource>
__device__ __forceinline__ float LoadInput(const PrepareParams& p, int64_t at) {
  const float x = LoadFloat(p.x + at);
  return kSource == Source::kAddRmsNorm ? x + LoadFloat(p.add + at) : x;
}

template <Source kSource>
__device__ Constants LoadConstants(const PrepareParams& p, int64_t half, int lane) {
  Constants c = {};
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const int64_t first = half * kHalfInputs + t * 32;
    if (p.signs != nullptr && first < p.k) c.signs[t] = p.signs[half * 4 + t];
    if (IsNorm(kSource) && first + lane < p.k) c.weights[t] = p.other[first + lane];
  }
  return c;
}

template <Source kSource>
__device__ Half LoadInputs(const PrepareParams& p, int64_t token, int64_t half, int lane) {
  Half v;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const int64_t input = half * kHalfInputs + t * 32 + lane;
    v.of[t] = 0;
    if (input >= p.k) continue;
    const float x = LoadInput<kSource>(p, token * p.ldx + input);
    v.of[t] = x;
    // Every half is one warp's, in one thread block only.
    if constexpr (kSource == Source::kAddRmsNorm) p.sum[token * p.ldx + input] = x;
    if constexpr (kSource == Source::kSiluMul) {
      v.of[t] = x / (1.0f + expf(-x)) * LoadFloat(p.other + token * p.ldx + input);
    }
  }
  return v;
}

// Signs and the Walsh-Hadamard transform of the half's first `length` inputs; a tail goes in
// descending powers of two. Distances ascend: sums are rounded, so their order counts.
__device__ void RotateHalf(const uint32_t (&signs)[4], int length, int lane, Half* v) {
  int size[4];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const int e = t * 32 + lane;
    size[t] = e >= length ? 0 : length == kHalfInputs ? kHalfInputs : 1 << (31 - __clz(length ^ e));
    if (size[t] == 0) continue;
    const float norm = kNorms[31 - __clz(size[t])];
    const bool plus = ((signs[t] >> lane) & 1u) != 0;
    v->of[t] *= plus ? norm : -norm;
  }
#pragma unroll
  for (int h = 1; h < 32; h *= 2) {
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const float other = __shfl_xor_sync(~0u, v->of[t], h);
      if (h < size[t]) v->of[t] = (lane & h) != 0 ? other - v->of[t] : v->of[t] + other;
    }
  }
#pragma unroll
  for (int h = 1; h < 4; h *= 2) {
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      if ((t & h) != 0 || h * 32 >= size[t]) continue;
      const float a = v->of[t], b = v->of[t | h];
      v->of[t] = a + b;
      v->of[t | h] = a - b;
    }
  }
}

// What the inputs of a word of 32 are multiplied with, and what their digits stand for.
struct WordScale {
  float inverse, scale;

  __device__ __forceinline__ void Set(int top_bits, float limit) {
    const float top = __int_as_float(top_bits);
    const bool zero = !(top >= kTiny);
    inverse = zero ? 0.0f : limit / top;
    scale = zero ? 0.0f : top / limit;
  }
};

// By the largest magnitude among the inputs that share a scale: those of a weight group in a half.
// Magnitudes are compared by their bits, whose order is the same.
__device__ void FindScales(const PrepareParams& p, int64_t half, const Half& v, float limit,
                           WordScale (&out)[4]) {
  if (p.out.slots == 1) {
    int bits = 0;
#pragma unroll
    for (int t = 0; t < 4; ++t) bits = max(bits, __float_as_int(v.of[t]) & INT32_MAX);
    out[0].Set(__reduce_max_sync(~0u, bits), limit);
#pragma unroll
    for (int t = 1; t < 4; ++t) out[t] = out[0];
    return;
  }
  int top[4];
  int64_t group[4];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    top[t] = __reduce_max_sync(~0u, __float_as_int(v.of[t]) & INT32_MAX);
    group[t] = (half * 4 + t) * 32 / p.group;
  }
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    int bits = 0;
#pragma unroll
    for (int other = 0; other < 4; ++other) {
      if (group[other] == group[t]) bits = max(bits, top[other]);
    }
    out[t].Set(bits, limit);
  }
}

__device__ __forceinline__ int RoundWithin(float v, float limit) {
  v = (v + kRounder) - kRounder;
  v = v > -limit ? v : -limit;  // also what a NaN becomes
  return static_cast<int>(v < limit ? v : limit);
}

// Writes one column's digits of a half: bits, bytes and the scales of its slots.
__device__ void StoreColumn(const PrepareParams& p, int64_t half, int column, const int (&digit)[4],
                            const float (&scale)[4], int lane) {
  const DeviceActivations& out = p.out;
  uint32_t bits = 0;
  int sum[4];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    sum[t] = __reduce_add_sync(~0u, digit[t]);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const uint32_t word = __ballot_sync(~0u, (digit[t] >> n) & 1);
      if (lane == n * 4 + t) bits = word;
    }
  }
  p.bits[(half * out.bit_stride + column) * 32 + lane] = bits;
  // Lane l of word t is byte 4*(2j + i) + b with j = l%4, b = l/4%4, i = l/16.
  uint8_t* bytes = p.bytes + (half * out.groups8 + column / 8) * 1024 + lane % 4 / 2 * 512 +
                   (lane % 2 * 2 + lane / 16) * 4 + lane / 4 % 4;
#pragma unroll
  for (int t = 0; t < 4; ++t) bytes[(column % 8 * 4 + t) * 16] = static_cast<uint8_t>(digit[t]);
  const int words = 4 / out.slots;
  if (lane < out.slots) {
    int total = 0;
    float slot_scale = 0;
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      if (t / words != lane) continue;
      total += sum[t];
      if (t % words == 0) slot_scale = scale[t];
    }
    p.scales[(half * out.slots + lane) * 8 * out.groups8 + column] = {slot_scale, total};
  }
}

template <bool kTwoDigits>
__device__ void QuantizeHalf(const PrepareParams& p, int64_t token, int64_t half, const Half& v,
                             int lane) {
  constexpr float kLimit = kTwoDigits ? 32512.0f : 127.0f;
  WordScale scales[4];
  FindScales(p, half, v, kLimit, scales);
  float scale[4];
  int high[4], low[4];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    scale[t] = scales[t].scale;
    const int value = RoundWithin(v.of[t] * scales[t].inverse, kLimit);
    high[t] = value;
    if constexpr (kTwoDigits) {
      high[t] = (value + 127 + 128 * 255) / 255 - 128;  // floor((value + 127) / 255)
      low[t] = value - 255 * high[t];
    }
  }
  if constexpr (kTwoDigits) {
    const int column = static_cast<int>(token) * 2;
    StoreColumn(p, half, column + 1, low, scale, lane);
#pragma unroll
    for (int t = 0; t < 4; ++t) scale[t] *= 255.0f;
    StoreColumn(p, half, column, high, scale, lane);
  } else {
    StoreColumn(p, half, static_cast<int>(token), high, scale, lane);
  }
}

constexpr int kWarps = 8;  // a CTA, a half each

// 1 / sqrt(mean(x^2) + eps) of a row, by all threads of a CTA: in float64, in an order that depends
// on nothing but k. Every CTA of a row does it for itself.
template <Source kSource>
__device__ float InverseRms(const PrepareParams& p, int64_t token) {
  __shared__ double partial[kWarps];
  constexpr int kBatch = 16;
  double sum[kBatch] = {};
  for (int64_t first = threadIdx.x; first < p.k; first += kBatch * kWarps * 32) {
    float x[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      // Without a branch, so that all are under way at once.
      const int64_t at = first + i * kWarps * 32;
      const float here = LoadInput<kSource>(p, token * p.ldx + (at < p.k ? at : p.k - 1));
      x[i] = at < p.k ? here : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) sum[i] = fma(double{x[i]}, double{x[i]}, sum[i]);
  }
  double total = 0;
#pragma unroll
  for (int i = 0; i < kBatch; ++i) total += sum[i];
  for (int o = 16; o > 0; o /= 2) total += __shfl_xor_sync(~0u, total, o);
  __syncthreads();  // `partial` of the token before was read
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = total;
  __syncthreads();
  total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += partial[w];
  return static_cast<float>(1.0 / sqrt(total / static_cast<double>(p.k) + double{p.eps}));
}

// A warp a half; blockIdx.y strides over tokens.
template <Source kSource, bool kTwoDigits>
__global__ void __launch_bounds__(kWarps * 32)
    PrepareKernel(const __grid_constant__ PrepareParams p) {
  const int lane = threadIdx.x & 31;
  const int64_t half = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int64_t left = p.k - half * kHalfInputs;
  const int length = left < kHalfInputs ? static_cast<int>(left) : kHalfInputs;
  const Constants constants = LoadConstants<kSource>(p, half, lane);
  StartNextKernel();
  WaitForPreviousKernel();
  for (int64_t token = blockIdx.y; token < p.out.m; token += gridDim.y) {
    Half v = LoadInputs<kSource>(p, token, half, lane);
    if constexpr (IsNorm(kSource)) {
      const float inverse_rms = InverseRms<kSource>(p, token);
#pragma unroll
      for (int t = 0; t < 4; ++t) v.of[t] = v.of[t] * inverse_rms * constants.weights[t];
    }
    if (half >= p.out.halves) continue;
    if (p.signs != nullptr && length > 0) RotateHalf(constants.signs, length, lane, &v);
    QuantizeHalf<kTwoDigits>(p, token, half, v, lane);
  }
}

template <Source kSource>
cudaError_t LaunchSource(const PrepareParams& p, cudaStream_t stream) {
  const auto kernel =
      p.out.digits == 2 ? PrepareKernel<kSource, true> : PrepareKernel<kSource, false>;
  const unsigned halves = static_cast<unsigned>(p.out.halves);
  const unsigned tokens = p.out.m < 65535 ? static_cast<unsigned>(p.out.m) : 65535;
  const dim3 grid((halves + kWarps - 1) / kWarps, tokens);
  return Launch(kernel, grid, kWarps * 32, p.programmatic, stream, p);
}

}  // namespace

cudaError_t LaunchPrepare(const PrepareParams& p, Source source, cudaStream_t stream) {
  switch (source) {
    case Source::kRmsNorm:
      return LaunchSource<Source::kRmsNorm>(p, stream);
    case Source::kAddRmsNorm:
      return LaunchSource<Source::kAddRmsNorm>(p, stream);
    case Source::kSiluMul:
      return LaunchSource<Source::kSiluMul>(p, stream);
    case Source::kPlain:
      break;
  }
  return LaunchSource<Source::kPlain>(p, stream);
}

}  // namespace shiftadd::kernels::cuda
