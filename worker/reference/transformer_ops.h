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

// y = x / sqrt(mean(x^2) + eps) * w for every row of x [tokens, hidden]; the mean in double. A new
// [tokens, hidden].
at::Tensor RmsNorm(const float* x, int64_t tokens, int64_t hidden, const at::Tensor& weight,
                   double eps);

// Cosines and sines of rotary position embedding for positions [0, length), angles in double.
class RopeTable {
 public:
  RopeTable() = default;
  RopeTable(const ArchitectureSpec& spec, int64_t length);
  int64_t length() const { return half_ == 0 ? 0 : static_cast<int64_t>(cos_.size()) / half_; }
  // out = scale * rope(in, position) for one head [head_dim], rotate-half. `out` may not overlap
  // `in`.
  void Apply(const float* in, int64_t position, float scale, float* out) const;
  int64_t half() const { return half_; }                  // head_dim / 2
  const std::vector<float>& cos() const { return cos_; }  // [length, half]
  const std::vector<float>& sin() const { return sin_; }

 private:
  int64_t half_ = 0;
  std::vector<float> cos_, sin_;  // [length, half]
};

// Causal grouped-query attention of one sequence. q [tokens, heads * head_dim], k and v [tokens,
// kv_heads * head_dim], before RoPE, contiguous. A new [tokens, heads * head_dim]. Scores exist for
// one head and kAttentionChunk queries at a time.
inline constexpr int64_t kAttentionChunk = 128;
at::Tensor CausalAttention(const ArchitectureSpec& spec, const RopeTable& rope, const at::Tensor& q,
                           const at::Tensor& k, const at::Tensor& v);

// silu(gate) * up, in place in `gate`.
void SwiGlu(at::Tensor& gate, const at::Tensor& up);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_TRANSFORMER_OPS_H_
