// A decoder as one writes it in LibTorch: what a package's speed is compared with, and what samples
// on a device. ATen types: include from .cc files of worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_PLAIN_DECODER_H_
#define SHIFTADD_WORKER_REFERENCE_PLAIN_DECODER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/model/model_source.h"
#include "worker/reference/transformer_ops.h"

namespace shiftadd::reference {

// Sequences of any family, side by side, with a key/value cache: LibTorch's fused norms and
// attention where it has them, q, k and v in one product, gate and up in one. Everything has the
// type of the weights.
class PlainDecoder {
 public:
  struct Options {
    at::ScalarType type = at::kFloat;
    int64_t length = 0;  // tokens of a sequence that there is room for
    int64_t sequences = 1;
    bool float_logits = false;  // the head and its product in fp32, whatever the type
  };
  // INVALID_ARGUMENT names a tensor that does not fit its model.
  static absl::StatusOr<std::unique_ptr<PlainDecoder>> Create(const WeightProvider& weights,
                                                              at::Device device,
                                                              const Options& options);

  // tokens (I64) behind `position` others: [n] of the one sequence, or one of each of several,
  // [sequences]. logits() of the tokens that follow, the likeliest ids of which go to token(). With
  // one token a sequence nothing crosses between device and host.
  void Run(const at::Tensor& tokens, int64_t position);

  const at::Tensor& logits() const { return logits_; }  // [sequences, vocab]
  const at::Tensor& token() const { return token_; }    // [sequences], the same tensor each time
  uint64_t bytes() const;                               // of all weights

 private:
  struct Product {
    at::Tensor weight, bias;
    at::Tensor operator()(const at::Tensor& x) const;
  };
  struct Block {
    NormWeights attn_norm, mlp_norm, attn_post_norm, mlp_post_norm;
    Product qkv, o, gate_up, down;  // gate_up: up alone if there is no gate
    at::Tensor q_norm, k_norm;      // [head_dim], or undefined
    bool local = false;
    int64_t window = 0;
    at::Tensor keys, values;  // [sequences, kv_heads, length, head_dim]
  };
  struct Angles {
    at::Tensor cos, sin;  // [length, 1, head_dim]; undefined: none
  };
  class Reader;

  PlainDecoder(const ArchitectureSpec& spec, const Options& options)
      : s_(spec), sequences_(options.sequences) {}
  at::Tensor Embed(const at::Tensor& tokens, int64_t position) const;
  at::Tensor Norm(const at::Tensor& x, const NormWeights& norm) const;
  at::Tensor Rotate(const at::Tensor& x, bool local, int64_t position) const;
  at::Tensor Attend(const Block& block, const at::Tensor& x, int64_t position) const;
  // Softmax of the scores of `queries` [sequences, heads, n, dim], and the values' sum.
  at::Tensor Mix(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                 const at::Tensor& bias) const;
  // What is added to scores; undefined: nothing but what is_causal says.
  at::Tensor Bias(const Block& block, int64_t position, int64_t n, int64_t first) const;
  at::Tensor Mlp(const Block& block, const at::Tensor& x) const;
  // The stream behind what attention or MLP gave, y.
  at::Tensor Joined(const NormWeights& norm, const NormWeights& post, const at::Tensor& h,
                    const at::Tensor& y) const;
  at::Tensor Input(const NormWeights& norm, const at::Tensor& h) const;

  const ArchitectureSpec s_;
  const int64_t sequences_;
  std::vector<Block> blocks_;
  at::Tensor embed_, positions_;
  NormWeights embed_norm_, final_norm_;
  Product embed_proj_, head_proj_, head_;
  Angles angles_, local_angles_;
  at::Tensor alibi_;  // [heads, 1, length]: the bias of keys, that of the token itself last
  at::Tensor token_, logits_;
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_PLAIN_DECODER_H_
