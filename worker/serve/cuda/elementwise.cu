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
  if (i < width) out[int64_t{blockIdx.y} * width + i] = x[from] + add[from];
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

cudaError_t LaunchGatherSum(const float* x, const float* add, const int32_t* wanted, float* out,
                            int64_t count, int64_t width, cudaStream_t stream) {
  const dim3 grid(Blocks(width), static_cast<unsigned>(count));
  GatherSumKernel<<<grid, kThreads, 0, stream>>>(x, add, wanted, out, width);
  return cudaGetLastError();
}

}  // namespace shiftadd::cuda
