// One transformer block's weights, and how many of them stay in memory. ATen types: include from
// .cc files of worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_BLOCK_WEIGHTS_H_
#define SHIFTADD_WORKER_REFERENCE_BLOCK_WEIGHTS_H_

#include <list>
#include <memory>
#include <string>
#include <utility>

#include "worker/reference/linear.h"
#include "worker/reference/transformer_ops.h"

namespace shiftadd::reference {

struct BlockWeights {
  NormWeights attn_norm, mlp_norm;
  NormWeights attn_post_norm, mlp_post_norm;  // NormPlace::kAround
  AttentionForm form;
  Linear q, k, v, o, gate, up, down;  // gate only if the MLP is gated

  void Pack(int64_t tokens);
};

// Norm `name`, with its bias if the model's norms have one.
absl::StatusOr<NormWeights> ReadNorm(const WeightProvider& weights, const std::string& name,
                                     at::Device device);

absl::StatusOr<std::shared_ptr<BlockWeights>> ReadBlock(const WeightProvider& weights,
                                                        int64_t block, at::Device device = at::kCPU,
                                                        at::ScalarType products = at::kFloat);

// The blocks used last, at most `capacity` of them (0 = all). Not thread-safe.
class BlockCache {
 public:
  BlockCache(const WeightProvider* weights, int capacity, at::Device device = at::kCPU,
             at::ScalarType products = at::kFloat)
      : weights_(weights), capacity_(capacity), device_(device), products_(products) {}
  // Makes room before it reads, so no more than `capacity` blocks are ever in memory. The result is
  // valid until the next call, or until Clear if all are kept.
  absl::StatusOr<const BlockWeights*> Get(int64_t block);
  void Clear() { blocks_.clear(); }
  bool keeps_all() const { return capacity_ == 0; }

 private:
  const WeightProvider* weights_;
  size_t capacity_;
  at::Device device_;
  at::ScalarType products_;
  std::list<std::pair<int64_t, std::shared_ptr<BlockWeights>>> blocks_;  // used last in front
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_BLOCK_WEIGHTS_H_
