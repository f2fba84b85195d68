// Decoding a microbatch token by token with a key/value cache. ATen types: include from .cc files
// of worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_DECODER_H_
#define SHIFTADD_WORKER_REFERENCE_DECODER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/reference/block_weights.h"
#include "worker/reference/reference_model.h"
#include "worker/reference/transformer_ops.h"

namespace shiftadd::reference {

// What all microbatches share: every block packed for products with kMicrobatch rows. Immutable,
// thread-safe.
struct DecoderWeights {
  ArchitectureSpec spec;
  at::Tensor embed;  // [vocab, hidden]
  at::Tensor final_norm;
  Linear head;
  std::vector<std::shared_ptr<BlockWeights>> blocks;
};

// Keys and values of kMicrobatch sequences of at most `length` tokens. Not thread-safe.
class Decoder {
 public:
  Decoder(const DecoderWeights* weights, const RopeTable* rope, int64_t length);
  // Appends one token to every sequence (tokens [kMicrobatch]) and gives the logits of the next,
  // [kMicrobatch, vocab]. `control` may be null; it is looked at before every block.
  absl::StatusOr<at::Tensor> Step(const std::vector<int32_t>& tokens, const TaskControl* control);

 private:
  at::Tensor Attention(int64_t block, const at::Tensor& x);

  const DecoderWeights& w_;
  const RopeTable& rope_;
  int64_t position_ = 0;
  std::vector<at::Tensor> keys_, values_;  // by block: [kMicrobatch * kv_heads, length, head_dim]
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_DECODER_H_
