// What the kernels of a step share: where its rows are, and how the cache's pages are laid out.
//
// A page holds 32 tokens of one sequence for all blocks and key/value heads, in fp16. The head dim
// is padded with zeros to one that the attention kernels are built for. Each (block, head) has
//   keys    [32 tokens][padded]
//   values  [padded][32 tokens]
// so that a lane's share of either is one 16-byte read in the order that mma.m16n8k16 wants (see
// attention.cuh).
#ifndef SHIFTADD_WORKER_SERVE_CUDA_STEP_H_
#define SHIFTADD_WORKER_SERVE_CUDA_STEP_H_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace shiftadd::cuda {

inline constexpr int kPageTokens = 32;
inline constexpr int kMaxHeadDim = 256;

// The padded head dim; 0 if there is none.
constexpr int PaddedHeadDim(int64_t head_dim) {
  constexpr int kSizes[] = {32, 64, 96, 128, 192, 256};
  for (const int size : kSizes) {
    if (head_dim <= size) return size;
  }
  return 0;
}

// Device arrays.
struct PagedRows {
  const int32_t* positions = nullptr;   // [rows]
  const int32_t* first_page = nullptr;  // [rows]: index of the sequence's page 0 in `pages`
  __half* const* pages = nullptr;
};

struct AttentionShape {
  int32_t heads = 0, kv_heads = 0, head_dim = 0, padded = 0;

  __host__ __device__ int32_t share() const { return heads / kv_heads; }
  __host__ __device__ int32_t q_rows() const { return heads * head_dim; }
  __host__ __device__ int32_t width() const { return (heads + 2 * kv_heads) * head_dim; }
  // In halves.
  __host__ __device__ int64_t KeysAt(int64_t block, int64_t kv_head) const {
    return (block * kv_heads + kv_head) * 2 * kPageTokens * padded;
  }
  __host__ __device__ int64_t ValuesAt(int64_t block, int64_t kv_head) const {
    return KeysAt(block, kv_head) + int64_t{kPageTokens} * padded;
  }
  __host__ __device__ int64_t PageHalves(int64_t blocks) const {
    return blocks * kv_heads * 2 * kPageTokens * padded;
  }
};

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_STEP_H_
