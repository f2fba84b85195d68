#include "worker/reference/transformer_ops.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/triu.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace shiftadd::reference {
namespace {

// Four sums side by side: fixed order, and not one long chain of additions.
double SumOfSquares(const float* x, int64_t n) {
  double sum[4] = {0, 0, 0, 0};
  for (int64_t i = 0; i < n; ++i) sum[i % 4] += static_cast<double>(x[i]) * x[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// x [tokens, heads * dim] -> [heads, tokens, dim] with RoPE.
at::Tensor RotateHeads(const RopeTable& rope, const at::Tensor& x, int64_t heads, int64_t dim,
                       float scale) {
  const int64_t tokens = x.size(0);
  at::Tensor y = at::empty({heads, tokens, dim}, at::kFloat);
  const float* in = x.const_data_ptr<float>();
  float* out = y.mutable_data_ptr<float>();
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h)
      rope.Apply(in + (t * heads + h) * dim, t, scale, out + (h * tokens + t) * dim);
  }
  return y;
}

}  // namespace

at::Tensor RmsNorm(const float* x, int64_t tokens, int64_t hidden, const at::Tensor& weight,
                   double eps) {
  at::Tensor y = at::empty({tokens, hidden}, at::kFloat);
  const float* w = weight.const_data_ptr<float>();
  float* out = y.mutable_data_ptr<float>();
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = x + t * hidden;
    const float factor = static_cast<float>(
        1.0 / std::sqrt(SumOfSquares(row, hidden) / static_cast<double>(hidden) + eps));
    for (int64_t i = 0; i < hidden; ++i) out[t * hidden + i] = row[i] * factor * w[i];
  }
  return y;
}

RopeTable::RopeTable(const ArchitectureSpec& spec, int64_t length) : half_(spec.head_dim / 2) {
  const std::vector<double> frequency = RopeInverseFrequencies(spec);
  cos_.resize(length * half_);
  sin_.resize(length * half_);
  for (int64_t t = 0; t < length; ++t) {
    for (int64_t i = 0; i < half_; ++i) {
      const double angle = static_cast<double>(t) * frequency[i];
      cos_[t * half_ + i] = static_cast<float>(std::cos(angle));
      sin_[t * half_ + i] = static_cast<float>(std::sin(angle));
    }
  }
}

void RopeTable::Apply(const float* in, int64_t position, float scale, float* out) const {
  const float* c = cos_.data() + position * half_;
  const float* s = sin_.data() + position * half_;
  for (int64_t i = 0; i < half_; ++i) {
    out[i] = (in[i] * c[i] - in[i + half_] * s[i]) * scale;
    out[i + half_] = (in[i + half_] * c[i] + in[i] * s[i]) * scale;
  }
}

at::Tensor CausalAttention(const ArchitectureSpec& spec, const RopeTable& rope, const at::Tensor& q,
                           const at::Tensor& k, const at::Tensor& v) {
  const int64_t tokens = q.size(0), dim = spec.head_dim, group = spec.heads / spec.kv_heads;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  const at::Tensor rq = RotateHeads(rope, q, spec.heads, dim, scale);
  const at::Tensor rk = RotateHeads(rope, k, spec.kv_heads, dim, 1.0f);
  const int64_t chunk = std::min(tokens, kAttentionChunk);
  // -infinity above the diagonal.
  const at::Tensor mask =
      at::full({chunk, chunk}, -std::numeric_limits<double>::infinity(), at::kFloat).triu(1);

  at::Tensor out = at::empty({tokens, spec.heads * dim}, at::kFloat);
  for (int64_t head = 0; head < spec.heads; ++head) {
    const int64_t kv = head / group;
    const at::Tensor values = v.narrow(1, kv * dim, dim);
    for (int64_t begin = 0; begin < tokens; begin += chunk) {
      const int64_t size = std::min(chunk, tokens - begin), seen = begin + size;
      at::Tensor scores = at::mm(rq.select(0, head).narrow(0, begin, size),
                                 rk.select(0, kv).narrow(0, 0, seen).t());
      scores.narrow(1, begin, size).add_(mask.narrow(0, 0, size).narrow(1, 0, size));
      at::Tensor target = out.narrow(0, begin, size).narrow(1, head * dim, dim);
      at::mm_out(target, at::softmax(scores, -1), values.narrow(0, 0, seen));
    }
  }
  return out;
}

void SwiGlu(at::Tensor& gate, const at::Tensor& up) {
  at::silu_(gate);
  gate.mul_(up);
}

}  // namespace shiftadd::reference
