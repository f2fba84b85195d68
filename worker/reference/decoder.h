// Decoding up to 16 sequences token by token, side by side, with a key/value cache. Weights and
// cache are in half precision (what the model writes is the same text to a reader, and memory
// traffic, which decoding waits for, is half), arithmetic is in float: decode_kernels.h.
#ifndef SHIFTADD_WORKER_REFERENCE_DECODER_H_
#define SHIFTADD_WORKER_REFERENCE_DECODER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/model_source.h"
#include "worker/reference/decode_kernels.h"
#include "worker/reference/reference_model.h"

namespace shiftadd::reference {

// One matrix in a kernel's panels, and its bias.
struct DecoderMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<uint16_t> panels;
  std::vector<float> bias;  // empty: none
};

// What all decoders of a model share. Immutable, thread-safe.
class DecoderWeights {
 public:
  // Reads every block and the head; `control` may be null. INVALID_ARGUMENT names a tensor of the
  // wrong size.
  static absl::StatusOr<std::unique_ptr<DecoderWeights>> Read(const WeightProvider& weights,
                                                              const DecodeKernels* kernels,
                                                              TaskControl* control);

 private:
  friend class Decoder;
  struct NormVectors {
    std::vector<float> weight, bias;  // no bias: an RMS norm
  };
  struct Block {
    NormVectors attn_norm, mlp_norm, attn_post_norm, mlp_post_norm;
    std::vector<float> q_norm, k_norm;  // [head_dim], or empty
    DecoderMatrix q, k, v, o, gate, up, down;
  };
  static absl::StatusOr<NormVectors> ReadNorm(const WeightProvider& weights,
                                              const std::string& name);
  absl::Status ReadEnds(const WeightProvider& weights);
  absl::Status ReadBlock(const WeightProvider& weights, int64_t block);

  ArchitectureSpec spec_;
  const DecodeKernels* kernels_ = nullptr;
  std::vector<uint16_t>
      embed_;  // [vocab, embed_dim] halves; empty if tied: the head's panels have it
  NormVectors final_norm_, embed_norm_;
  std::vector<float> positions_;  // of learned positions, without those before the offset
  DecoderMatrix embed_proj_, head_proj_, head_;
  std::vector<Block> blocks_;
};

// `sequences` (1 … kDecodeLanes) of at most `length` tokens. A sequence is the same whatever the
// others are and however many. Not thread-safe.
class Decoder {
 public:
  Decoder(const DecoderWeights* weights, int sequences, int64_t length);
  // Appends one token to every sequence (tokens [sequences]) and gives the logits of the next,
  // [sequences, vocab], valid until the next call. `control` may be null; it is looked at before
  // every block, and its progress_count moves. INVALID_ARGUMENT names a layer whose output makes
  // the activations infinite or NaN.
  absl::StatusOr<const float*> Step(const std::vector<int32_t>& tokens, TaskControl* control);

 private:
  using Lanes = std::vector<float>;  // [features][kDecodeLanes]

  void Embed(const std::vector<int32_t>& tokens);
  // x [hidden] -> y, which may be x.
  void Norm(const DecoderWeights::NormVectors& norm, const Lanes& x, Lanes* y) const;
  // What attention or MLP reads: hidden_ -> x_.
  void Input(const DecoderWeights::NormVectors& norm);
  void Multiply(const DecoderMatrix& m, const Lanes& x, Lanes* y) const;
  // Adds the product to hidden_, with the norms that stand behind it; INVALID_ARGUMENT names the
  // layer if that is not finite.
  absl::Status Add(const DecoderMatrix& m, const DecoderWeights::NormVectors& norm,
                   const DecoderWeights::NormVectors& post, const Lanes& x, int64_t block,
                   const char* name);
  void NormHeads(const std::vector<float>& weight, int64_t heads, Lanes* x) const;
  // RoPE if the model has it, and the scale.
  void Rotate(int64_t heads, bool local, float scale, Lanes* x) const;
  void SetAngles();
  void Mlp(const DecoderWeights::Block& b);  // x_ -> gate_
  void Remember(int64_t block);
  void Attend(int64_t block);

  const DecoderWeights& w_;
  const int sequences_;
  const int64_t length_;
  const int64_t padded_dim_;
  int64_t position_ = 0;
  struct Angles {
    std::vector<double> frequency;  // [head_dim / 2]; empty: no RoPE
    std::vector<float> cos, sin;    // of this position, [head_dim / 2]
  };
  Angles angles_[2];           // of global and of local blocks
  std::vector<float> slopes_;  // [heads] or empty: ALiBi's
  Lanes hidden_, x_, q_, k_, v_, mixed_, gate_, up_;
  std::vector<float> scores_, logits_;
  // By block, then [sequences][kv_heads]: as AttendArgs has them.
  std::vector<std::vector<uint16_t>> keys_, values_;
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_DECODER_H_
