#include <algorithm>
#include <cmath>

#include "kernels/cuda/dense.h"
#include "kernels/cuda/half_decoder.cuh"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

__device__ float WarpMax(float v) {
  for (int o = 16; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
  return v;
}

// 2^exponent, for exponents of normal floats.
__device__ float PowerOfTwo(int exponent) { return __int_as_float((exponent + 127) << 23); }

// The largest scale of every kDenseParts-th run of columns; NaNs are not seen.
__global__ void __launch_bounds__(kThreads)
    TopsKernel(const __grid_constant__ DeviceActivations x, DenseScalars* scalars) {
  __shared__ float tops[kWarps];
  const int64_t stride = int64_t{8} * x.groups8;
  const int64_t count = stride * x.halves * x.slots;
  float top = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += kDenseParts * kThreads) {
    const int64_t column = i % stride;
    const bool last_digit = column % x.digits == x.digits - 1;
    if (column < x.columns && last_digit) top = fmaxf(top, x.scales[i].scale);
  }
  top = WarpMax(top);
  if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < kWarps; ++w) top = fmaxf(top, tops[w]);
  scalars->tops[blockIdx.x] = top;
}

__device__ float Digit(uint32_t word, int byte) {
  return static_cast<float>(static_cast<int8_t>(word >> (8 * byte)));
}

// A warp a half and 8 columns; blockIdx.x is the half.
__global__ void __launch_bounds__(kThreads)
    ActivationsKernel(const __grid_constant__ DeviceActivations x, int64_t stride, uint16_t* out,
                      DenseScalars* scalars) {
  const int lane = threadIdx.x % 32, t = lane % 4;
  const float top = WarpMax(fmaxf(scalars->tops[lane], scalars->tops[lane + 32]));
  const float limit = x.digits == 2 ? 32512.0f : 127.0f;
  // Scales are 0 or large enough for the exponent to be that of a normal float.
  const int exponent =
      top > 0 ? ((__float_as_int(top * limit) >> 23) & 255) - 127 - kDenseTopExponent : 0;
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    scalars->x_unit = PowerOfTwo(exponent);
  }
  const int64_t half = blockIdx.x;
  for (int64_t group = int64_t{blockIdx.y} * kWarps + threadIdx.x / 32; group < x.groups8;
       group += int64_t{gridDim.y} * kWarps) {
    const int64_t column = group * 8 + lane / 4;
    const int64_t slot = half * x.slots + t / (4 / x.slots);
    const uint4* at = x.bytes + (half * x.groups8 + group) * 64 + lane;
    uint4 v[2] = {at[0], at[32]};
    uint4 low = {};
    const bool is_high = column % 2 == 0;
    if (x.digits == 2) {
      // A token's two lanes take a fragment each: they swap what the other one needs.
      const uint4 give = is_high ? v[1] : v[0];
      uint4 got;
      got.x = __shfl_xor_sync(~0u, give.x, 4);
      got.y = __shfl_xor_sync(~0u, give.y, 4);
      got.z = __shfl_xor_sync(~0u, give.z, 4);
      got.w = __shfl_xor_sync(~0u, give.w, 4);
      low = is_high ? got : v[1];
      if (is_high) v[1] = v[0];
      if (!is_high) v[1] = got;
    }
    if (column >= x.columns) continue;
    const int64_t token = column / x.digits;
    const int64_t scale_at = slot * 8 * x.groups8 + token * x.digits + x.digits - 1;
    const float scale = x.scales[scale_at].scale * PowerOfTwo(-exponent);
    uint16_t* row = out + token * stride + half * kHalfInputs + t * 8;
    for (int f = x.digits == 2 ? 1 : 0; f < 2; ++f) {
      const int fragment = x.digits == 1 ? f : is_high ? 0 : 1;
      const uint32_t words[4] = {v[f].x, v[f].y, v[f].z, v[f].w};
      const uint32_t lows[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        __half2 pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float value[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int byte = i % 2 * 2 + e;
            value[e] = Digit(words[2 * j + i / 2], byte);
            if (x.digits == 2) value[e] = 255 * value[e] + Digit(lows[2 * j + i / 2], byte);
          }
          pairs[i] = __floats2half2_rn(value[0] * scale, value[1] * scale);
        }
        *reinterpret_cast<uint4*>(row + (2 * fragment + j) * 32) =
            *reinterpret_cast<const uint4*>(pairs);
      }
    }
  }
}

struct TiledWeights {
  const uint8_t* blocks;  // of the first tile
  int64_t units;
  int64_t tiles;
  int64_t halves;  // of an output row
  uint16_t* out;
  DenseScalars* scalars;
  float unit;  // 2^exponent
  Factors factors;
  ShiftSets sets;
};

// A warp a block of 16 rows and 256 inputs.
template <typename B, int S>
__global__ void __launch_bounds__(kThreads) WeightsKernel(const __grid_constant__ TiledWeights p) {
  __shared__ uint2 tables[kMaxTiledSets];
  if constexpr (B::kHasSets) {
    if (threadIdx.x < kMaxTiledSets) {
      tables[threadIdx.x] =
          make_uint2(p.sets.words[2 * threadIdx.x], p.sets.words[2 * threadIdx.x + 1]);
    }
    __syncthreads();
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) p.scalars->factor = p.scalars->x_unit * p.unit;
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (index >= p.tiles * p.units) return;
  const int64_t tile = index / p.units, unit = index % p.units;
  const int lane = threadIdx.x % 32, t = lane % 4;
  B w;
  w.Load(p.blocks + index * B::kBytes, lane);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (unit * 2 + h >= p.halves) break;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const HalfDecoder<B> decoder(w, h, r, t / (4 / S), tables, p.factors);
      uint16_t* row = p.out + (tile * kTileRows + lane / 4 + 8 * r) * p.halves * kHalfInputs +
                      (unit * 2 + h) * kHalfInputs + t * 8;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t pairs[4];
        decoder.Step(j, pairs);
        *reinterpret_cast<uint4*>(row + j * 32) =
            make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
    }
  }
}

using WeightsFunction = void (*)(TiledWeights);

template <int S>
WeightsFunction KernelFor(int kind) {
  switch (kind) {
#define SHIFTADD_CASE(form, zeta, q) \
  case KindOf(form, zeta, q):        \
    return WeightsKernel<Block<form, zeta, q, S>, S>;
    SHIFTADD_FOR_EACH_PLANE_KIND(SHIFTADD_CASE)
#undef SHIFTADD_CASE
    default:
      return WeightsKernel<CodeBlock<S>, S>;
  }
}

}  // namespace

cudaError_t LaunchDenseActivations(const DeviceActivations& x, int64_t stride, uint16_t* out,
                                   DenseScalars* scalars, cudaStream_t stream) {
  const cudaError_t error = Launch(TopsKernel, kDenseParts, kThreads, false, stream, x, scalars);
  if (error != cudaSuccess) return error;
  const auto halves = static_cast<unsigned>(stride / kHalfInputs);
  const auto groups = static_cast<unsigned>((x.groups8 + kWarps - 1) / kWarps);
  return Launch(ActivationsKernel, dim3(halves, std::min(groups, 65535u)), kThreads, false, stream,
                x, stride, out, scalars);
}

cudaError_t LaunchDenseWeights(const DeviceMatrix& w, const DenseWeights& to, cudaStream_t stream) {
  if (w.form == Form::kPlain) return LaunchDensePlain(w, to, stream);
  const int64_t first_tile = to.first_row / kTileRows;
  TiledWeights p = {};
  p.blocks = w.blocks + first_tile * w.units * BlockBytes(w.form, w.q, w.zeta, w.slots);
  p.units = w.units;
  p.tiles = (to.rows + kTileRows - 1) / kTileRows;
  p.halves = to.stride / kHalfInputs;
  p.out = to.out;
  p.scalars = to.scalars;
  p.unit = std::ldexp(1.0f, to.exponent);
  p.factors.zeta = std::ldexp(1.0f, -to.exponent);
  p.factors.scale =
      static_cast<float>(std::ldexp(w.form == Form::kShift ? double{to.unit} : 1.0, -to.exponent));
  p.sets = to.sets;
  const auto grid = static_cast<unsigned>((p.tiles * p.units + kWarps - 1) / kWarps);
  const int kind = KindOf(w.form, w.zeta, w.q);
  return Launch(w.slots == 2 ? KernelFor<2>(kind) : KernelFor<1>(kind), grid, kThreads, false,
                stream, p);
}

}  // namespace shiftadd::kernels::cuda
