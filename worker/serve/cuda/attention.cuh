// One warp's softmax(q k) v over pages of 32 keys, on the fp16 tensor cores with fp32 sums, as in
// FlashAttention-2 (Dao 2023): scores, exponentials and sums never leave registers.
//
// In m16n8k16, lane 4g + t holds rows g and g+8 of A, inputs 2t, 2t+1, 2t+8, 2t+9; of B the same
// inputs of column g; of C columns 2t, 2t+1 of rows g and g+8. Inputs may be numbered in any order
// that A and B share:
//   q k      A is the query, inputs are dims: a lane's are 32j + 8t … +7, one read of 16 bytes of a
//            key. Column n of product b is key 8 (n/2) + 2b + n%2, so lane t gets the scores of
//            keys 8t … 8t+7 from the four products b.
//   p v      A is the exponentials, as the lane has them; B is 8 keys of dim 8n + g, one read.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_ATTENTION_CUH_
#define SHIFTADD_WORKER_SERVE_CUDA_ATTENTION_CUH_

#include <cuda_fp16.h>

#include <cfloat>

#include "kernels/cuda/device_ops.cuh"
#include "worker/serve/cuda/step.h"

namespace shiftadd::cuda {

__device__ __forceinline__ void HalfMma(const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                        float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Rows 0 … 7 only.
#pragma nv_diagnostic push
#pragma nv_diag_suppress 550  // the other rows' results are not used
__device__ __forceinline__ void HalfMma(const uint32_t (&a)[2], uint32_t b0, uint32_t b1,
                                        float (&c)[2]) {
  float unused0, unused1;
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%8,%5,%8},{%6,%7},"
      "{%0,%1,%9,%9};"
      : "+f"(c[0]), "+f"(c[1]), "=f"(unused0), "=f"(unused1)
      : "r"(a[0]), "r"(a[1]), "r"(b0), "r"(b1), "r"(0), "f"(0.0f));
}
#pragma nv_diagnostic pop

__device__ __forceinline__ uint32_t PackHalves(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ float2 UnpackHalves(uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

// A fragments of a query, by steps of 16 dims.
template <int kD>
struct QueryFragments {
  uint32_t a[kD / 16][4];
};

// This lane's eight dims 32j + 8t … of a row, zero beyond head_dim or where `row` is null.
__device__ __forceinline__ void LoadDims(const float* row, int j, int t, int head_dim,
                                         float (&out)[8]) {
#pragma unroll
  for (int e = 0; e < 8; ++e) out[e] = 0;
  if (row == nullptr) return;
  const int first = 32 * j + 8 * t;
  if (head_dim % 4 == 0) {
#pragma unroll
    for (int e = 0; e < 8; e += 4) {
      if (first + e >= head_dim) continue;
      const uint4 v =
          kernels::cuda::LoadActivations16(reinterpret_cast<const uint4*>(row + first + e));
      out[e] = __uint_as_float(v.x), out[e + 1] = __uint_as_float(v.y);
      out[e + 2] = __uint_as_float(v.z), out[e + 3] = __uint_as_float(v.w);
    }
    return;
  }
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    if (first + e >= head_dim) continue;
    out[e] = __uint_as_float(
        kernels::cuda::LoadActivations4(reinterpret_cast<const uint32_t*>(row + first + e)));
  }
}

// Row `low` in rows 0 … 7 and `high` in rows 8 … 15 of A, times `scale`; null is zero. With
// kSplit, `high` is not read: it gets what rounding took from `low`.
template <int kD, bool kSplit>
__device__ void LoadQuery(const float* low, const float* high, int t, int head_dim, float scale,
                          QueryFragments<kD>* out) {
#pragma unroll
  for (int j = 0; j < kD / 32; ++j) {
    float x[8], y[8];
    LoadDims(low, j, t, head_dim, x);
    if constexpr (!kSplit) LoadDims(high, j, t, head_dim, y);
#pragma unroll
    for (int e = 0; e < 8; e += 2) {
      const uint32_t first = PackHalves(x[e] * scale, x[e + 1] * scale);
      uint32_t second;
      if constexpr (kSplit) {
        const float2 rounded = UnpackHalves(first);
        second = PackHalves(x[e] * scale - rounded.x, x[e + 1] * scale - rounded.y);
      } else {
        second = PackHalves(y[e] * scale, y[e + 1] * scale);
      }
      // Step 2j + e/4: inputs 2t, 2t+1 come first, 2t+8, 2t+9 second.
      out->a[2 * j + e / 4][e % 4 / 2 * 2] = first;
      out->a[2 * j + e / 4][e % 4 / 2 * 2 + 1] = second;
    }
  }
}

// A warp's running softmax over rows g (and, with two row blocks, g+8): sums of exponentials are
// this lane's part, `top` and `acc` are relative to the largest score so far, in base 2.
template <int kD, int kRowBlocks>
struct WarpSoftmax {
  float top[kRowBlocks], sum[kRowBlocks];
  float acc[kD / 8][2 * kRowBlocks];  // dims 8n + 2t, +1 of row g, then of row g+8

  __device__ void Clear() {
#pragma unroll
    for (int r = 0; r < kRowBlocks; ++r) top[r] = -INFINITY, sum[r] = 0;
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2 * kRowBlocks; ++e) acc[n][e] = 0;
    }
  }
};

// Scores [b][2r + e] of key 8t + 2b + e. With one row block the rows of the lower half of A are
// added: what rounding took from the query.
template <int kD, int kRowBlocks>
__device__ __forceinline__ void PageScores(const QueryFragments<kD>& q, const uint4* keys, int g,
                                           int t, float (&score)[4][2 * kRowBlocks]) {
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    const uint4* key = keys + (8 * (g / 2) + 2 * b + g % 2) * (kD / 8) + t;
    uint4 k[kD / 32];
#pragma unroll
    for (int j = 0; j < kD / 32; ++j) k[j] = kernels::cuda::LoadActivations16(key + 4 * j);
    float c[4] = {0, 0, 0, 0};
#pragma unroll
    for (int j = 0; j < kD / 32; ++j) {
      HalfMma(q.a[2 * j], k[j].x, k[j].y, c);
      HalfMma(q.a[2 * j + 1], k[j].z, k[j].w, c);
    }
    if constexpr (kRowBlocks == 1) {
      score[b][0] = c[0] + c[2];
      score[b][1] = c[1] + c[3];
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) score[b][e] = c[e];
    }
  }
}

constexpr float kLog2E = 1.4426950408889634f;

// ScoreRules of a lane's rows, for scores in base 2.
template <int kRowBlocks>
struct LaneRules {
  float cap = 0;
  float slope[kRowBlocks] = {};
  int first[kRowBlocks] = {};  // keys before it are not seen

  __device__ __forceinline__ float Apply(int r, float score, int distance) const {
    if (cap > 0) score = cap * tanhf(score / cap);
    return score - slope[r] * static_cast<float>(distance);
  }
};

// Adds a page whose first key is `first_key`; row block r sees keys up to limit[r]. Pages come in
// ascending order; without rules the first one has a key for every row.
template <int kD, int kRowBlocks, bool kRules>
__device__ __forceinline__ void AddPage(const QueryFragments<kD>& q, const __half* keys,
                                        const __half* values, int first_key,
                                        const int (&limit)[kRowBlocks],
                                        const LaneRules<kRowBlocks>& rules, int lane,
                                        WarpSoftmax<kD, kRowBlocks>* state) {
  const int g = lane / 4, t = lane % 4;
  const uint4* value = reinterpret_cast<const uint4*>(values) + g * 4 + t;
  // Narrow heads have registers for all values: they are on their way while scores are made.
  constexpr bool kEarly = kD <= 128 && kRowBlocks == 1;
  uint4 early[kEarly ? kD / 8 : 1];
  float score[4][2 * kRowBlocks];
  if constexpr (kEarly) {
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
      early[n] = kernels::cuda::LoadActivations16(value + n * 32);
    }
  }
  PageScores<kD, kRowBlocks>(q, reinterpret_cast<const uint4*>(keys), g, t, score);
  uint32_t p[2][2 * kRowBlocks];  // A fragments of two steps of 16 keys
#pragma unroll
  for (int r = 0; r < kRowBlocks; ++r) {
    float top = -INFINITY;
#pragma unroll
    for (int b = 0; b < 4; ++b) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& s = score[b][2 * r + e];
        const int key = first_key + 8 * t + 2 * b + e;
        if constexpr (kRules) s = rules.Apply(r, s, limit[r] - key);
        if (key > limit[r] || (kRules && key < rules.first[r])) s = -INFINITY;
        top = fmaxf(top, s);
      }
    }
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    top = fmaxf(top, state->top[r]);
    if (kRules && top == -INFINITY) top = -FLT_MAX;  // no key of this row yet
    const float shrink = exp2f(state->top[r] - top);
    state->top[r] = top;
    float sum = 0;
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const uint32_t pair =
          PackHalves(exp2f(score[b][2 * r] - top), exp2f(score[b][2 * r + 1] - top));
      const float2 rounded = UnpackHalves(pair);
      sum += rounded.x + rounded.y;
      p[b / 2][b % 2 * kRowBlocks + r] = pair;
    }
    state->sum[r] = state->sum[r] * shrink + sum;
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
      state->acc[n][2 * r] *= shrink;
      state->acc[n][2 * r + 1] *= shrink;
    }
  }
#pragma unroll
  for (int n = 0; n < kD / 8; ++n) {
    const uint4 v =
        kEarly ? early[kEarly ? n : 0] : kernels::cuda::LoadActivations16(value + n * 32);
    HalfMma(p[0], v.x, v.y, state->acc[n]);
    HalfMma(p[1], v.z, v.w, state->acc[n]);
  }
}

// Calls F<padded>(…) for the padded head dim.
#define SHIFTADD_FOR_HEAD_DIM(padded, CALL) \
  switch (padded) {                         \
    case 32:                                \
      return CALL(32);                      \
    case 64:                                \
      return CALL(64);                      \
    case 96:                                \
      return CALL(96);                      \
    case 128:                               \
      return CALL(128);                     \
    case 192:                               \
      return CALL(192);                     \
    case 256:                               \
      return CALL(256);                     \
    default:                                \
      return cudaErrorInvalidValue;         \
  }

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_ATTENTION_CUH_
