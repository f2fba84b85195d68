// Attention over paged keys and values, with grouped queries. Launches; arguments are checked by
// callers. All results depend on a row's own query, position and keys only, in one fixed order.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_ATTENTION_H_
#define SHIFTADD_WORKER_SERVE_CUDA_ATTENTION_H_

#include "worker/serve/cuda/step.h"

namespace shiftadd::cuda {

// Rows of q, k and v as the products left them.
struct RopeParams {
  AttentionShape shape;
  int64_t block = 0;
  float* qkv = nullptr;             // [rows, shape.width()]; queries are rotated in place
  const float* bias = nullptr;      // [shape.width()], added first; or null
  const float2* cos_sin = nullptr;  // [positions, head_dim / 2]
  PagedRows rows;
};
// Adds biases, rotates queries and keys, and puts keys and values into the cache.
cudaError_t LaunchRope(const RopeParams& p, int64_t rows, bool programmatic, cudaStream_t stream);

struct AttentionParams {
  AttentionShape shape;
  int64_t block = 0;
  const float* qkv = nullptr;  // [rows, shape.width()], queries rotated
  float* out = nullptr;        // [rows, shape.q_rows()]
  PagedRows rows;
};

// Thread blocks that share the keys of one row and head; a constant, so that a row's sums do not
// depend on its company.
inline constexpr int kDecodeSplits = 16;
inline constexpr int kDecodeHeads = 8;   // of a thread block
inline constexpr int kDecodeRows = 128;  // of a launch

// Partial results of a launch, [row][head group][split]. `arrived` is zero before and after.
struct DecodeScratch {
  float* sums = nullptr;   // [kDecodeSplits][kDecodeHeads][padded]
  float2* tops = nullptr;  // [kDecodeSplits][kDecodeHeads]: largest score, sum of exponentials
  uint32_t* arrived = nullptr;
};
inline int DecodeGroups(const AttentionShape& shape) {
  return shape.kv_heads * ((shape.share() + kDecodeHeads - 1) / kDecodeHeads);
}

// One token a row: `count` <= kDecodeRows rows, those in `rows` (device) or, if null, 0 … count-1.
// Queries have 22 bits (two halves), exponentials 11.
cudaError_t LaunchDecodeAttention(const AttentionParams& p, const DecodeScratch& scratch,
                                  const int32_t* rows, int64_t count, bool programmatic,
                                  cudaStream_t stream);

// Up to 16 rows at consecutive positions of one sequence.
struct AttentionTile {
  int32_t first_row, count;
};
// Prompts: all rows of `tiles` (device). Queries and exponentials have 11 bits.
cudaError_t LaunchPromptAttention(const AttentionParams& p, const AttentionTile* tiles,
                                  int64_t count, bool programmatic, cudaStream_t stream);

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_ATTENTION_H_
