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
  const float* q_norm = nullptr;    // [head_dim]: weights of an RMS norm of each query, then …
  const float* k_norm = nullptr;    // … and of each key; both or neither
  float eps = 0;                    // of these
  const float2* cos_sin = nullptr;  // [positions, head_dim / 2]; null: nothing is rotated
  PagedRows rows;
};
// Adds biases, norms and rotates queries and keys, and puts keys and values into the cache. The
// head dim is even.
cudaError_t LaunchRope(const RopeParams& p, int64_t rows, bool programmatic, cudaStream_t stream);

// How scores become weights.
struct ScoreRules {
  float scale = 1;
  float cap = 0;                  // above 0: scores become cap * tanh(score / cap) …
  const float* slopes = nullptr;  // … less slopes[head] * distance (device); or null
  int32_t window = 0;             // a token sees so many, itself among them; 0: all before it

  bool plain() const { return cap == 0 && slopes == nullptr && window == 0; }
};

struct AttentionParams {
  AttentionShape shape;
  int64_t block = 0;
  const float* qkv = nullptr;  // [rows, shape.width()], queries rotated
  float* out = nullptr;        // [rows, shape.q_rows()]
  PagedRows rows;
  ScoreRules rules;
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
