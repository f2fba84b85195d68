#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/launch.h"
#include "worker/serve/cuda/attention.h"

namespace shiftadd::cuda {
namespace {

constexpr int kWarps = 8;

__device__ __forceinline__ float Load(const float* p) {
  return __uint_as_float(kernels::cuda::LoadActivations4(reinterpret_cast<const uint32_t*>(p)));
}

// fp16 has no room for larger numbers, and an infinity would spoil the page for good.
__device__ __forceinline__ __half ToHalf(float x) {
  return __float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f));
}

// A warp a head: of the queries, then of the keys, then of the values.
__global__ void RopeKernel(const __grid_constant__ RopeParams p) {
  const AttentionShape& shape = p.shape;
  const int lane = threadIdx.x % 32;
  const int head = blockIdx.x * kWarps + threadIdx.x / 32;
  const int64_t row = blockIdx.y;
  kernels::cuda::StartNextKernel();
  if (head >= shape.heads + 2 * shape.kv_heads) {
    kernels::cuda::WaitForPreviousKernel();
    return;
  }
  // All but the products is there since before the step's first kernel.
  const int d = shape.head_dim;
  float* x = p.qkv + row * shape.width() + int64_t{head} * d;
  const float* bias = p.bias == nullptr ? nullptr : p.bias + int64_t{head} * d;
  const int position = p.rows.positions[row];
  const int slot = position % kPageTokens;
  __half* page =
      head < shape.heads ? nullptr : p.rows.pages[p.rows.first_page[row] + position / kPageTokens];
  const int kv_head = (head - shape.heads) % shape.kv_heads;
  if (head >= shape.heads + shape.kv_heads) {
    kernels::cuda::WaitForPreviousKernel();
    __half* values = page + shape.ValuesAt(p.block, kv_head) + slot;
    for (int i = lane; i < d; i += 32) {
      values[i * kPageTokens] = ToHalf(Load(x + i) + (bias == nullptr ? 0 : bias[i]));
    }
    return;
  }
  const bool is_key = head >= shape.heads;
  __half* key = is_key ? page + shape.KeysAt(p.block, kv_head) + slot * shape.padded : nullptr;
  const float2* turns = p.cos_sin == nullptr ? nullptr : p.cos_sin + int64_t{position} * (d / 2);
  float2 turn = {1, 0};
  if (turns != nullptr && lane < d / 2) turn = turns[lane];
  kernels::cuda::WaitForPreviousKernel();
  const float* norm = is_key ? p.k_norm : p.q_norm;
  float inverse = 1;
  if (norm != nullptr) {
    float squares = 0;
    for (int i = lane; i < d; i += 32) {
      const float v = Load(x + i) + (bias == nullptr ? 0 : bias[i]);
      squares = fmaf(v, v, squares);
    }
    for (int o = 16; o > 0; o /= 2) squares += __shfl_xor_sync(~0u, squares, o);
    inverse = 1 / sqrtf(squares / static_cast<float>(d) + p.eps);
  }
  for (int i = lane; i < d / 2; i += 32) {
    float a = Load(x + i), b = Load(x + d / 2 + i);
    if (bias != nullptr) a += bias[i], b += bias[d / 2 + i];
    if (norm != nullptr) a *= inverse * norm[i], b *= inverse * norm[d / 2 + i];
    if (turns != nullptr && i != lane) turn = turns[i];
    const float first = a * turn.x - b * turn.y, second = b * turn.x + a * turn.y;
    if (is_key) {
      key[i] = ToHalf(first);
      key[d / 2 + i] = ToHalf(second);
    } else {
      x[i] = first;
      x[d / 2 + i] = second;
    }
  }
}

}  // namespace

cudaError_t LaunchRope(const RopeParams& p, int64_t rows, bool programmatic, cudaStream_t stream) {
  const int heads = p.shape.heads + 2 * p.shape.kv_heads;
  const dim3 grid((heads + kWarps - 1) / kWarps, static_cast<unsigned>(rows));
  return kernels::cuda::Launch(RopeKernel, grid, kWarps * 32, programmatic, stream, p);
}

}  // namespace shiftadd::cuda
