#include "worker/reference/decoder.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <cmath>

#include "services/base/status_macros.h"
#include "worker/reference/microbatch.h"

namespace shiftadd::reference {

Decoder::Decoder(const DecoderWeights* weights, const RopeTable* rope, int64_t length)
    : w_(*weights), rope_(*rope) {
  for (int64_t b = 0; b < w_.spec.blocks; ++b) {
    for (std::vector<at::Tensor>* cache : {&keys_, &values_}) {
      cache->push_back(
          at::empty({kMicrobatch * w_.spec.kv_heads, length, w_.spec.head_dim}, at::kFloat));
    }
  }
}

at::Tensor Decoder::Attention(int64_t block, const at::Tensor& x) {
  const ArchitectureSpec& s = w_.spec;
  const BlockWeights& b = *w_.blocks[block];
  const int64_t dim = s.head_dim, group = s.heads / s.kv_heads, batch = kMicrobatch * s.kv_heads;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  const at::Tensor q = b.q(x), k = b.k(x), v = b.v(x);

  // [kMicrobatch, heads, dim] read as [kMicrobatch * kv_heads, group, dim]: heads of one group
  // stand together.
  at::Tensor rq = at::empty({batch, group, dim}, at::kFloat);
  for (int64_t i = 0; i < kMicrobatch * s.heads; ++i) {
    rope_.Apply(q.const_data_ptr<float>() + i * dim, position_, scale,
                rq.mutable_data_ptr<float>() + i * dim);
  }
  const int64_t stride = keys_[block].size(1) * dim;
  float* keys = keys_[block].mutable_data_ptr<float>() + position_ * dim;
  float* values = values_[block].mutable_data_ptr<float>() + position_ * dim;
  for (int64_t i = 0; i < batch; ++i) {
    rope_.Apply(k.const_data_ptr<float>() + i * dim, position_, 1.0f, keys + i * stride);
    std::copy_n(v.const_data_ptr<float>() + i * dim, dim, values + i * stride);
  }

  const int64_t seen = position_ + 1;
  const at::Tensor scores = at::bmm(rq, keys_[block].narrow(1, 0, seen).transpose(1, 2));
  const at::Tensor mixed = at::bmm(at::softmax(scores, -1), values_[block].narrow(1, 0, seen));
  return b.o(mixed.view({kMicrobatch, s.q_rows()}));
}

absl::StatusOr<at::Tensor> Decoder::Step(const std::vector<int32_t>& tokens,
                                         const TaskControl* control) {
  const ArchitectureSpec& s = w_.spec;
  const auto norm = [&](const at::Tensor& x, const at::Tensor& weight) {
    return RmsNorm(x.const_data_ptr<float>(), kMicrobatch, s.hidden, weight, s.norm_eps);
  };
  at::Tensor h = at::empty({kMicrobatch, s.hidden}, at::kFloat);
  for (int64_t i = 0; i < kMicrobatch; ++i) {
    std::copy_n(w_.embed.const_data_ptr<float>() + tokens[i] * s.hidden, s.hidden,
                h.mutable_data_ptr<float>() + i * s.hidden);
  }
  for (int64_t block = 0; block < s.blocks; ++block) {
    if (control != nullptr) SA_RETURN_IF_ERROR(control->Check());
    const BlockWeights& b = *w_.blocks[block];
    h.add_(Attention(block, norm(h, b.attn_norm)));
    const at::Tensor x = norm(h, b.mlp_norm);
    at::Tensor gate = b.gate(x);
    SwiGlu(gate, b.up(x));
    h.add_(b.down(gate));
  }
  ++position_;
  return w_.head(norm(h, w_.final_norm));
}

}  // namespace shiftadd::reference
