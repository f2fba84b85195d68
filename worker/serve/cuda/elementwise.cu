#include "worker/serve/cuda/elementwise.h"

namespace shiftadd::cuda {
namespace {

constexpr int kThreads = 256;

unsigned Blocks(int64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }

__global__ void RmsNormKernel(const __grid_constant__ NormParams p) {
  __shared__ double partial[kThreads / 32];
  const int64_t first = int64_t{blockIdx.x} * p.width;
  double squares = 0;
  for (int64_t i = threadIdx.x; i < p.width; i += kThreads) {
    float x = p.x[first + i];
    if (p.add != nullptr) p.sum[first + i] = x += p.add[first + i];
    squares = fma(double{x}, double{x}, squares);
  }
  for (int o = 16; o > 0; o /= 2) squares += __shfl_xor_sync(~0u, squares, o);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = squares;
  __syncthreads();
  squares = 0;
  for (int w = 0; w < kThreads / 32; ++w) squares += partial[w];
  const float inverse =
      static_cast<float>(1.0 / sqrt(squares / static_cast<double>(p.width) + double{p.eps}));
  for (int64_t i = threadIdx.x; i < p.width; i += kThreads) {
    const float x = p.add != nullptr ? p.sum[first + i] : p.x[first + i];
    p.out[first + i] = x * inverse * p.weight[i];
  }
}

__global__ void SiluMulKernel(const float* gate, const float* up, int64_t ld, float* out,
                              int64_t width) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, row = blockIdx.y;
  if (i >= width) return;
  const float x = gate[row * ld + i];
  out[row * width + i] = x / (1.0f + expf(-x)) * up[row * ld + i];
}

__global__ void AddBiasKernel(float* y, int64_t ld, const float* bias, int64_t width) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, row = blockIdx.y;
  if (i < width) y[row * ld + i] += bias[i];
}

__global__ void GatherSumKernel(const float* x, const float* add, const int32_t* wanted, float* out,
                                int64_t width) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t from = int64_t{wanted[blockIdx.y]} * width + i;
  if (i >= width) return;
  out[int64_t{blockIdx.y} * width + i] = x[from] + (add == nullptr ? 0 : add[from]);
}

__global__ void FinishEmbeddingKernel(const __grid_constant__ EmbedParams p) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, row = blockIdx.y;
  if (i >= p.width) return;
  float x = p.x[row * p.width + i] * p.scale;
  if (p.table != nullptr) x += p.table[(p.positions[row] + p.offset) * p.width + i];
  p.x[row * p.width + i] = x;
}

// Mean and 1 / deviation of a row; 0 and 1 / rms for an RMS norm.
struct Moments {
  float mean, inverse;
};
__device__ Moments BlockMoments(double sum, double squares, const NormView& norm, float eps,
                                int64_t width) {
  __shared__ double partial[2][kThreads / 32];
  for (int o = 16; o > 0; o /= 2) {
    sum += __shfl_xor_sync(~0u, sum, o);
    squares += __shfl_xor_sync(~0u, squares, o);
  }
  __syncthreads();  // an earlier call's sums were read
  if (threadIdx.x % 32 == 0) {
    partial[0][threadIdx.x / 32] = sum;
    partial[1][threadIdx.x / 32] = squares;
  }
  __syncthreads();
  sum = squares = 0;
  for (int w = 0; w < kThreads / 32; ++w) sum += partial[0][w], squares += partial[1][w];
  const double n = static_cast<double>(width);
  const double mean = norm.bias == nullptr ? 0 : sum / n;
  const double variance = fmax(squares / n - mean * mean, 0.0);
  return {static_cast<float>(mean), static_cast<float>(1.0 / sqrt(variance + double{eps}))};
}
__device__ __forceinline__ float Normed(float x, const Moments& m, const NormView& norm,
                                        int64_t i) {
  const float y = (x - m.mean) * m.inverse * norm.weight[i];
  return norm.bias == nullptr ? y : y + norm.bias[i];
}

// A thread block a row; a thread reads back only what it wrote itself.
__global__ void JoinKernel(const __grid_constant__ JoinParams p) {
  const int64_t first = int64_t{blockIdx.x} * p.width;
  Moments post = {0, 1};
  if (p.post.weight != nullptr) {
    double sum = 0, squares = 0;
    for (int64_t i = threadIdx.x; i < p.width; i += kThreads) {
      const double x = p.delta[first + i];
      sum += x;
      squares = fma(x, x, squares);
    }
    post = BlockMoments(sum, squares, p.post, p.eps, p.width);
  }
  double sum = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < p.width; i += kThreads) {
    float x = p.x[first + i];
    if (p.delta != nullptr) {
      const float delta = p.delta[first + i];
      x += p.post.weight == nullptr ? delta : Normed(delta, post, p.post, i);
    }
    p.sum[first + i] = x;
    sum += x;
    squares = fma(double{x}, double{x}, squares);
  }
  if (p.norm.weight == nullptr) {
    if (p.out == nullptr || p.out == p.sum) return;
    for (int64_t i = threadIdx.x; i < p.width; i += kThreads) p.out[first + i] = p.sum[first + i];
    return;
  }
  const Moments m = BlockMoments(sum, squares, p.norm, p.eps, p.width);
  for (int64_t i = threadIdx.x; i < p.width; i += kThreads) {
    const float y = Normed(p.sum[first + i], m, p.norm, i);
    if (p.after) p.sum[first + i] = y;
    if (p.out != nullptr) p.out[first + i] = y;
  }
}

template <ActKind kKind>
__global__ void ActivateKernel(const float* gate, const float* up, int64_t ld, float* out,
                               int64_t width) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, row = blockIdx.y;
  if (i >= width) return;
  const float x = gate[row * ld + i];
  float y;
  if constexpr (kKind == ActKind::kSilu) {
    y = x / (1.0f + expf(-x));
  } else if constexpr (kKind == ActKind::kGeluTanh) {
    y = 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
  } else {
    y = fmaxf(x, 0.0f);
  }
  out[row * width + i] = up == nullptr ? y : y * up[row * ld + i];
}

__global__ void SoftCapKernel(float* x, float cap, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) x[i] = cap * tanhf(x[i] / cap);
}

}  // namespace

cudaError_t LaunchRmsNorm(const NormParams& p, int64_t rows, cudaStream_t stream) {
  RmsNormKernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

cudaError_t LaunchSiluMul(const float* gate, const float* up, int64_t ld, float* out, int64_t rows,
                          int64_t width, cudaStream_t stream) {
  const dim3 grid(Blocks(width), static_cast<unsigned>(rows));
  SiluMulKernel<<<grid, kThreads, 0, stream>>>(gate, up, ld, out, width);
  return cudaGetLastError();
}

cudaError_t LaunchAddBias(float* y, int64_t ld, const float* bias, int64_t rows, int64_t width,
                          cudaStream_t stream) {
  const dim3 grid(Blocks(width), static_cast<unsigned>(rows));
  AddBiasKernel<<<grid, kThreads, 0, stream>>>(y, ld, bias, width);
  return cudaGetLastError();
}

cudaError_t LaunchFinishEmbedding(const EmbedParams& p, int64_t rows, cudaStream_t stream) {
  const dim3 grid(Blocks(p.width), static_cast<unsigned>(rows));
  FinishEmbeddingKernel<<<grid, kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

cudaError_t LaunchJoin(const JoinParams& p, int64_t rows, cudaStream_t stream) {
  JoinKernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

cudaError_t LaunchActivate(ActKind kind, const float* gate, const float* up, int64_t ld, float* out,
                           int64_t rows, int64_t width, cudaStream_t stream) {
  const dim3 grid(Blocks(width), static_cast<unsigned>(rows));
  const auto kernel = kind == ActKind::kSilu       ? ActivateKernel<ActKind::kSilu>
                      : kind == ActKind::kGeluTanh ? ActivateKernel<ActKind::kGeluTanh>
                                                   : ActivateKernel<ActKind::kRelu>;
  kernel<<<grid, kThreads, 0, stream>>>(gate, up, ld, out, width);
  return cudaGetLastError();
}

cudaError_t LaunchSoftCap(float* x, float cap, int64_t count, cudaStream_t stream) {
  SoftCapKernel<<<Blocks(count), kThreads, 0, stream>>>(x, cap, count);
  return cudaGetLastError();
}

cudaError_t LaunchGatherSum(const float* x, const float* add, const int32_t* wanted, float* out,
                            int64_t count, int64_t width, cudaStream_t stream) {
  const dim3 grid(Blocks(width), static_cast<unsigned>(count));
  GatherSumKernel<<<grid, kThreads, 0, stream>>>(x, add, wanted, out, width);
  return cudaGetLastError();
}

}  // namespace shiftadd::cuda
