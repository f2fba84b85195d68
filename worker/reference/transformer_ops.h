// The parts of a block that are not matrix products with weights. ATen types: include from .cc
// files of worker/reference only. All on one thread, one sequence; the same bytes for the same
// input.
#ifndef SHIFTADD_WORKER_REFERENCE_TRANSFORMER_OPS_H_
#define SHIFTADD_WORKER_REFERENCE_TRANSFORMER_OPS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/model/architecture_spec.h"

namespace shiftadd::reference {

// A norm's weights, [hidden] each; no bias: an RMS norm.
struct NormWeights {
  at::Tensor weight, bias;
};
// What attention needs to know of its block beyond the spec: RMS norms of heads ([head_dim] each,
// or undefined), and whether it is local, seeing `window` tokens (0: all).
struct AttentionForm {
  at::Tensor q_norm, k_norm;
  bool local = false;
  int64_t window = 0;
};

// Every row of x [tokens, hidden] normed: RMS norm, or layer norm if there is a bias; sums in
// double. A new [tokens, hidden].
at::Tensor Norm(const float* x, int64_t tokens, int64_t hidden, const NormWeights& norm,
                double eps);

// Cosines and sines of rotary position embedding for positions [0, length), angles in double. Empty
// for models without; local blocks may have a table of their own.
class RopeTable {
 public:
  RopeTable() = default;
  RopeTable(const ArchitectureSpec& spec, int64_t length);
  int64_t length() const { return half_ == 0 ? 0 : static_cast<int64_t>(all_.cos.size()) / half_; }
  // out = scale * rope(in, position) for one head [head_dim], rotate-half. `out` may not overlap
  // `in`.
  void Apply(const float* in, int64_t position, bool local, float scale, float* out) const;
  int64_t half() const { return half_; }  // head_dim / 2; 0: empty
  // [length, half]
  const std::vector<float>& cos(bool local = false) const { return Of(local).cos; }
  const std::vector<float>& sin(bool local = false) const { return Of(local).sin; }
  bool has_local() const { return !local_.cos.empty(); }

 private:
  struct Angles {
    std::vector<float> cos, sin;
  };
  const Angles& Of(bool local) const { return local && has_local() ? local_ : all_; }

  int64_t half_ = 0;
  Angles all_, local_;
};

// The score of query i and key j (at `begin` and `first` from the start of the sequence), as
// something to add: -infinity where j is hidden from i, ALiBi's bias. [heads or 1, queries, keys].
at::Tensor ScoreBias(const ArchitectureSpec& spec, int64_t window, int64_t begin, int64_t queries,
                     int64_t first, int64_t keys, const at::TensorOptions& options);
// True if scores are masked by the diagonal alone, and nothing is added to them.
bool PlainScores(const ArchitectureSpec& spec, const AttentionForm& form);

// Causal grouped-query attention of one sequence. q [tokens, heads * head_dim], k and v [tokens,
// kv_heads * head_dim], before RoPE, contiguous. A new [tokens, heads * head_dim]. Scores exist for
// one head and kAttentionChunk queries at a time.
inline constexpr int64_t kAttentionChunk = 128;
at::Tensor CausalAttention(const ArchitectureSpec& spec, const RopeTable& rope,
                           const AttentionForm& form, const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v);

// act(gate) * up, or act(gate) if `up` is undefined, in place in `gate`.
void Activate(Activation activation, at::Tensor& gate, const at::Tensor& up);
// cap * tanh(x / cap) in place; nothing if cap is 0.
void SoftCap(double cap, at::Tensor& x);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_TRANSFORMER_OPS_H_
