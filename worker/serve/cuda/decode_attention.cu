// Attention for one token a sequence. The pages of a row and head group are shared by up to
// kDecodeSplits thread blocks of four warps, round robin; the last of them to finish adds up what
// all found, in their order (as in FlashDecoding, without a second kernel).
#include "kernels/cuda/launch.h"
#include "worker/serve/cuda/attention.cuh"
#include "worker/serve/cuda/attention.h"

namespace shiftadd::cuda {
namespace {

constexpr int kWarps = 4;

struct DecodeParams {
  AttentionParams attention;
  DecodeScratch scratch;
  const int32_t* rows = nullptr;
  float scale = 0;  // of scores, for base 2
};

// Where a thread block works.
struct Place {
  int row, kv_head, first_head, heads;  // heads: of this group
  int slot;                             // of the scratch
  int length, splits;
  int first, first_page;  // what is seen begins with this key, and its page
};

__device__ Place FindPlace(const DecodeParams& p) {
  const AttentionShape& shape = p.attention.shape;
  const int groups = gridDim.y / shape.kv_heads;
  Place at;
  at.row = p.rows == nullptr ? blockIdx.z : p.rows[blockIdx.z];
  at.kv_head = blockIdx.y / groups;
  const int begin = blockIdx.y % groups * kDecodeHeads;
  at.heads = min(kDecodeHeads, shape.share() - begin);
  at.first_head = at.kv_head * shape.share() + begin;
  at.slot = blockIdx.z * gridDim.y + blockIdx.y;
  at.length = p.attention.rows.positions[at.row] + 1;
  const int window = p.attention.rules.window;
  at.first = window > 0 ? max(0, at.length - window) : 0;
  at.first_page = at.first / kPageTokens;
  const int pages = (at.length + kPageTokens - 1) / kPageTokens - at.first_page;
  at.splits = min(kDecodeSplits, (pages + kWarps - 1) / kWarps);
  return at;
}

__device__ void Store(const DecodeParams& p, const Place& at, int head, int dim, float value) {
  const AttentionShape& shape = p.attention.shape;
  if (head >= at.heads || dim >= shape.head_dim) return;
  p.attention.out[int64_t{at.row} * shape.q_rows() +
                  int64_t{at.first_head + head} * shape.head_dim + dim] = value;
}

// What the warps of a thread block found.
template <int kD>
struct Found {
  float top[kWarps][kDecodeHeads], sum[kWarps][kDecodeHeads];
  float acc[kWarps][kDecodeHeads][kD];
};

// Asks for the keys and values of this warp's first page, as far as they are there already: what
// the kernel before is about to write is read again after the wait.
template <int kD>
__device__ void PrefetchPage(const DecodeParams& p, const Place& at) {
  const AttentionParams& a = p.attention;
  const int page = at.first_page + blockIdx.x * kWarps + threadIdx.x / 32;
  if (page * kPageTokens >= at.length) return;
  const __half* base = a.rows.pages[a.rows.first_page[at.row] + page];
  constexpr int kLines = kPageTokens * kD * 2 / 128;
  for (int line = threadIdx.x % 32; line < 2 * kLines; line += 32) {  // values follow keys
    asm volatile(
        "prefetch.global.L2 [%0];" ::"l"(base + a.shape.KeysAt(a.block, at.kv_head) + line * 64));
  }
}

template <int kD, bool kRules>
__device__ void WarpPages(const DecodeParams& p, const Place& at, Found<kD>* found) {
  const AttentionParams& a = p.attention;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const float* query = g < at.heads ? a.qkv + int64_t{at.row} * a.shape.width() +
                                          int64_t{at.first_head + g} * a.shape.head_dim
                                    : nullptr;
  QueryFragments<kD> q;
  LoadQuery<kD, true>(query, nullptr, t, a.shape.head_dim, p.scale, &q);
  __half* const* pages = a.rows.pages + a.rows.first_page[at.row];
  const int64_t keys = a.shape.KeysAt(a.block, at.kv_head);
  const int64_t values = a.shape.ValuesAt(a.block, at.kv_head);
  const int limit[1] = {at.length - 1};
  LaneRules<1> rules;
  if constexpr (kRules) {
    rules.cap = a.rules.cap * kLog2E;
    if (a.rules.slopes != nullptr && g < at.heads) {
      rules.slope[0] = a.rules.slopes[at.first_head + g] * kLog2E;
    }
    rules.first[0] = at.first;
  }
  WarpSoftmax<kD, 1> state;
  state.Clear();
  for (int page = at.first_page + blockIdx.x * kWarps + warp; page * kPageTokens < at.length;
       page += at.splits * kWarps) {
    const __half* base = pages[page];
    AddPage<kD, 1, kRules>(q, base + keys, base + values, page * kPageTokens, limit, rules, lane,
                           &state);
  }
  float sum = state.sum[0];
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  if (t == 0) found->top[warp][g] = state.top[0], found->sum[warp][g] = sum;
#pragma unroll
  for (int n = 0; n < kD / 8; ++n) {
    *reinterpret_cast<float2*>(&found->acc[warp][g][8 * n + 2 * t]) =
        make_float2(state.acc[n][0], state.acc[n][1]);
  }
}

// The last thread block of a row and head group: all splits, in order.
template <int kD>
__device__ void CombineSplits(const DecodeParams& p, const Place& at) {
  __shared__ float weight[kDecodeSplits][kDecodeHeads];
  const int64_t first = int64_t{at.slot} * kDecodeSplits;
  if (threadIdx.x < kDecodeHeads) {
    const int head = threadIdx.x;
    float2 of[kDecodeSplits];
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int s = 0; s < kDecodeSplits; ++s) {
      if (s >= at.splits) break;
      of[s] = __ldcg(p.scratch.tops + (first + s) * kDecodeHeads + head);
      top = fmaxf(top, of[s].x);
    }
#pragma unroll
    for (int s = 0; s < kDecodeSplits; ++s) {
      if (s < at.splits) sum += of[s].y * exp2f(of[s].x - top);
    }
#pragma unroll
    for (int s = 0; s < kDecodeSplits; ++s) {
      if (s < at.splits) weight[s][head] = exp2f(of[s].x - top) / sum;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < at.heads * kD; i += kWarps * 32) {
    const int head = i / kD, dim = i % kD;
    float value = 0;
#pragma unroll
    for (int s = 0; s < kDecodeSplits; ++s) {
      if (s < at.splits) {
        const float* sums = p.scratch.sums + ((first + s) * kDecodeHeads + head) * kD + dim;
        value += weight[s][head] * __ldcg(sums);
      }
    }
    Store(p, at, head, dim, value);
  }
}

template <int kD, bool kRules>
__global__ void __launch_bounds__(kWarps * 32)
    DecodeKernel(const __grid_constant__ DecodeParams p) {
  __shared__ Found<kD> found;
  __shared__ bool last;
  kernels::cuda::StartNextKernel();
  // Positions and page tables are there since before the step's first kernel.
  const Place at = FindPlace(p);
  const int split = blockIdx.x;
  if (split >= at.splits) return;
  PrefetchPage<kD>(p, at);
  kernels::cuda::WaitForPreviousKernel();
  WarpPages<kD, kRules>(p, at, &found);
  __syncthreads();
  const int64_t mine = int64_t{at.slot} * kDecodeSplits + split;
  for (int i = threadIdx.x; i < at.heads * kD; i += kWarps * 32) {
    const int head = i / kD, dim = i % kD;
    float top = -INFINITY, sum = 0, value = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, found.top[w][head]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float weight = exp2f(found.top[w][head] - top);
      sum += weight * found.sum[w][head];
      value += weight * found.acc[w][head][dim];
    }
    if (at.splits == 1) {
      Store(p, at, head, dim, value / sum);
    } else {
      p.scratch.sums[(mine * kDecodeHeads + head) * kD + dim] = value;
      if (dim == 0) p.scratch.tops[mine * kDecodeHeads + head] = make_float2(top, sum);
    }
  }
  if (at.splits == 1) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(p.scratch.arrived + at.slot, 1u) == static_cast<uint32_t>(at.splits - 1);
    if (last) p.scratch.arrived[at.slot] = 0;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  CombineSplits<kD>(p, at);
}

}  // namespace

cudaError_t LaunchDecodeAttention(const AttentionParams& p, const DecodeScratch& scratch,
                                  const int32_t* rows, int64_t count, bool programmatic,
                                  cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const DecodeParams params = {p, scratch, rows, kLog2E * p.rules.scale};
  const dim3 grid(kDecodeSplits, DecodeGroups(p.shape), static_cast<unsigned>(count));
#define SHIFTADD_LAUNCH(padded)                                                         \
  kernels::cuda::Launch(                                                                \
      p.rules.plain() ? DecodeKernel<padded, false> : DecodeKernel<padded, true>, grid, \
      kWarps * 32, programmatic, stream, params)
  SHIFTADD_FOR_HEAD_DIM(p.shape.padded, SHIFTADD_LAUNCH)
#undef SHIFTADD_LAUNCH
}

}  // namespace shiftadd::cuda
