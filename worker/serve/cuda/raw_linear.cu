// Products with matrices that were left as numbers: one warp a row, a few tokens at a time.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "worker/serve/cuda/elementwise.h"

namespace shiftadd::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kTokens = 4;

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__half x) { return __half2float(x); }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__global__ void __launch_bounds__(kWarps * 32)
    MultiplyKernel(const T* w, int64_t rows, int64_t cols, const float* x, int64_t tokens, float* y,
                   int64_t ldy) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows) return;
  for (int64_t token = int64_t{blockIdx.y} * kTokens; token < tokens;
       token += int64_t{gridDim.y} * kTokens) {
    float sum[kTokens] = {};
#pragma unroll 4
    for (int64_t i = lane; i < cols; i += 32) {
      const float weight = ToFloat(w[row * cols + i]);
#pragma unroll
      for (int k = 0; k < kTokens; ++k) {
        // Tokens that are not there: the last one again, not stored.
        const int64_t of = token + k < tokens ? token + k : tokens - 1;
        sum[k] = fmaf(weight, x[of * cols + i], sum[k]);
      }
    }
#pragma unroll
    for (int k = 0; k < kTokens; ++k) {
      for (int o = 16; o > 0; o /= 2) sum[k] += __shfl_xor_sync(~0u, sum[k], o);
      if (lane == 0 && token + k < tokens) y[(token + k) * ldy + row] = sum[k];
    }
  }
}

template <typename T>
__global__ void GatherKernel(const T* w, int64_t cols, const int32_t* rows, float* out) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < cols) out[blockIdx.y * cols + i] = ToFloat(w[rows[blockIdx.y] * cols + i]);
}

// f(typed data).
template <typename F>
cudaError_t WithType(const RawMatrix& w, F f) {
  switch (w.type) {
    case RawType::kF16:
      f(static_cast<const __half*>(w.data));
      break;
    case RawType::kBF16:
      f(static_cast<const __nv_bfloat16*>(w.data));
      break;
    case RawType::kF32:
      f(static_cast<const float*>(w.data));
      break;
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchRawMultiply(const RawMatrix& w, const float* x, int64_t tokens, float* y,
                              int64_t ldy, cudaStream_t stream) {
  const int64_t groups = (tokens + kTokens - 1) / kTokens;
  const dim3 grid(static_cast<unsigned>((w.rows + kWarps - 1) / kWarps),
                  static_cast<unsigned>(groups < 65535 ? groups : 65535));
  return WithType(w, [&](const auto* data) {
    MultiplyKernel<<<grid, kWarps * 32, 0, stream>>>(data, w.rows, w.cols, x, tokens, y, ldy);
  });
}

cudaError_t LaunchRawGather(const RawMatrix& w, const int32_t* rows, int64_t count, float* out,
                            cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((w.cols + 255) / 256), static_cast<unsigned>(count));
  return WithType(w, [&](const auto* data) {
    GatherKernel<<<grid, 256, 0, stream>>>(data, w.cols, rows, out);
  });
}

}  // namespace shiftadd::cuda
