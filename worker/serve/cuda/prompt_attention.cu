// Causal attention for many tokens of a sequence: a warp takes 16 tokens of one head. The warps of
// a thread block are neighbours (heads of one group first), so they find their keys and values in
// L1.
#include "kernels/cuda/launch.h"
#include "worker/serve/cuda/attention.cuh"
#include "worker/serve/cuda/attention.h"

namespace shiftadd::cuda {
namespace {

constexpr int kWarps = 4;

struct PromptParams {
  AttentionParams attention;
  const AttentionTile* tiles = nullptr;
  int32_t count = 0;
  float scale = 0;  // of scores, for base 2
};

template <int kD>
__device__ void StoreRow(const AttentionParams& a, int64_t row, int head, int t, float inverse,
                         int r, const WarpSoftmax<kD, 2>& state) {
  float* out = a.out + row * a.shape.q_rows() + int64_t{head} * a.shape.head_dim;
#pragma unroll
  for (int n = 0; n < kD / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int dim = 8 * n + 2 * t + e;
      if (dim < a.shape.head_dim) out[dim] = state.acc[n][2 * r + e] * inverse;
    }
  }
}

template <int kD, bool kRules>
__global__ void __launch_bounds__(kWarps * 32)
    PromptKernel(const __grid_constant__ PromptParams p) {
  const AttentionParams& a = p.attention;
  kernels::cuda::StartNextKernel();
  kernels::cuda::WaitForPreviousKernel();
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int share = a.shape.share();
  // The last tiles see the most keys: they start first.
  const int64_t item = int64_t{gridDim.x - 1 - blockIdx.x} * kWarps + threadIdx.x / 32;
  if (item / share >= p.count) return;
  const AttentionTile tile = p.tiles[item / share];
  const int head = blockIdx.y * share + static_cast<int>(item % share);
  const int position = a.rows.positions[tile.first_row];
  const float* query =
      a.qkv + int64_t{tile.first_row} * a.shape.width() + int64_t{head} * a.shape.head_dim;
  const auto row = [&](int i) {
    return i < tile.count ? query + int64_t{i} * a.shape.width() : nullptr;
  };
  QueryFragments<kD> q;
  LoadQuery<kD, false>(row(g), row(g + 8), t, a.shape.head_dim, p.scale, &q);
  __half* const* pages = a.rows.pages + a.rows.first_page[tile.first_row];
  const int64_t keys = a.shape.KeysAt(a.block, blockIdx.y);
  const int64_t values = a.shape.ValuesAt(a.block, blockIdx.y);
  const int limit[2] = {position + g, position + g + 8};
  LaneRules<2> rules;
  int first_page = 0;
  if constexpr (kRules) {
    rules.cap = a.rules.cap * kLog2E;
    const float slope = a.rules.slopes == nullptr ? 0 : a.rules.slopes[head] * kLog2E;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rules.slope[r] = slope;
      if (a.rules.window > 0) rules.first[r] = limit[r] + 1 - a.rules.window;
    }
    if (a.rules.window > 0) first_page = max(0, position + 1 - a.rules.window) / kPageTokens;
  }
  WarpSoftmax<kD, 2> state;
  state.Clear();
#pragma unroll 1
  for (int page = first_page; page * kPageTokens < position + tile.count; ++page) {
    const __half* base = pages[page];
    AddPage<kD, 2, kRules>(q, base + keys, base + values, page * kPageTokens, limit, rules, lane,
                           &state);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (g + 8 * r < tile.count) {
      StoreRow<kD>(a, tile.first_row + g + 8 * r, head, t, 1 / sum, r, state);
    }
  }
}

}  // namespace

cudaError_t LaunchPromptAttention(const AttentionParams& p, const AttentionTile* tiles,
                                  int64_t count, bool programmatic, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const PromptParams params = {p, tiles, static_cast<int32_t>(count), kLog2E * p.rules.scale};
  const auto blocks = static_cast<unsigned>((count * p.shape.share() + kWarps - 1) / kWarps);
  const dim3 grid(blocks, static_cast<unsigned>(p.shape.kv_heads));
#define SHIFTADD_LAUNCH(padded)                                                         \
  kernels::cuda::Launch(                                                                \
      p.rules.plain() ? PromptKernel<padded, false> : PromptKernel<padded, true>, grid, \
      kWarps * 32, programmatic, stream, params)
  SHIFTADD_FOR_HEAD_DIM(p.shape.padded, SHIFTADD_LAUNCH)
#undef SHIFTADD_LAUNCH
}

}  // namespace shiftadd::cuda
