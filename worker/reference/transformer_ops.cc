#include "worker/reference/transformer_ops.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/triu.h>
#include <ATen/ops/where.h>

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

float InverseRms(const float* x, int64_t n, double eps) {
  return static_cast<float>(1.0 / std::sqrt(SumOfSquares(x, n) / static_cast<double>(n) + eps));
}

void LayerNormRow(const float* x, int64_t n, const float* w, const float* b, double eps,
                  float* out) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(n);
  double square = 0;
  for (int64_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
  const double factor = 1.0 / std::sqrt(square / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>((x[i] - mean) * factor) * w[i] + b[i];
}

// x [tokens, heads * dim] -> [heads, tokens, dim], normed if `norm` is defined, with RoPE if there
// is a table.
at::Tensor RotateHeads(const ArchitectureSpec& spec, const RopeTable& rope, bool local,
                       const at::Tensor& norm, const at::Tensor& x, int64_t heads, float scale) {
  const int64_t tokens = x.size(0), dim = spec.head_dim;
  at::Tensor y = at::empty({heads, tokens, dim}, at::kFloat);
  const float* in = x.const_data_ptr<float>();
  const float* weight = norm.defined() ? norm.const_data_ptr<float>() : nullptr;
  float* out = y.mutable_data_ptr<float>();
  std::vector<float> normed(dim);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      const float* head = in + (t * heads + h) * dim;
      float* to = out + (h * tokens + t) * dim;
      if (weight != nullptr) {
        const float factor = InverseRms(head, dim, spec.norm_eps);
        for (int64_t i = 0; i < dim; ++i) normed[i] = head[i] * factor * weight[i];
        head = normed.data();
      }
      if (rope.half() > 0) {
        rope.Apply(head, t, local, scale, to);
      } else {
        for (int64_t i = 0; i < dim; ++i) to[i] = head[i] * scale;
      }
    }
  }
  return y;
}

}  // namespace

at::Tensor Norm(const float* x, int64_t tokens, int64_t hidden, const NormWeights& norm,
                double eps) {
  at::Tensor y = at::empty({tokens, hidden}, at::kFloat);
  const float* w = norm.weight.const_data_ptr<float>();
  const float* b = norm.bias.defined() ? norm.bias.const_data_ptr<float>() : nullptr;
  float* out = y.mutable_data_ptr<float>();
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = x + t * hidden;
    if (b != nullptr) {
      LayerNormRow(row, hidden, w, b, eps, out + t * hidden);
      continue;
    }
    const float factor = InverseRms(row, hidden, eps);
    for (int64_t i = 0; i < hidden; ++i) out[t * hidden + i] = row[i] * factor * w[i];
  }
  return y;
}

RopeTable::RopeTable(const ArchitectureSpec& spec, int64_t length)
    : half_(spec.rope() ? spec.head_dim / 2 : 0) {
  if (half_ == 0) return;
  const auto fill = [&](bool local, Angles* out) {
    const std::vector<double> frequency = RopeInverseFrequencies(spec, local);
    out->cos.resize(length * half_);
    out->sin.resize(length * half_);
    for (int64_t t = 0; t < length; ++t) {
      for (int64_t i = 0; i < half_; ++i) {
        const double angle = static_cast<double>(t) * frequency[i];
        out->cos[t * half_ + i] = static_cast<float>(std::cos(angle));
        out->sin[t * half_ + i] = static_cast<float>(std::sin(angle));
      }
    }
  };
  fill(false, &all_);
  if (spec.rope_local_theta > 0) fill(true, &local_);
}

void RopeTable::Apply(const float* in, int64_t position, bool local, float scale,
                      float* out) const {
  const float* c = cos(local).data() + position * half_;
  const float* s = sin(local).data() + position * half_;
  for (int64_t i = 0; i < half_; ++i) {
    out[i] = (in[i] * c[i] - in[i + half_] * s[i]) * scale;
    out[i + half_] = (in[i + half_] * c[i] + in[i] * s[i]) * scale;
  }
}

bool PlainScores(const ArchitectureSpec& spec, const AttentionForm& form) {
  return form.window == 0 && spec.attention_cap == 0 && spec.position != PositionKind::kAlibi;
}

at::Tensor ScoreBias(const ArchitectureSpec& spec, int64_t window, int64_t begin, int64_t queries,
                     int64_t first, int64_t keys, const at::TensorOptions& options) {
  const at::Tensor distance = at::arange(begin, begin + queries, options).unsqueeze(1) -
                              at::arange(first, first + keys, options).unsqueeze(0);
  at::Tensor hidden = distance < 0;
  if (window > 0) hidden = hidden.logical_or(distance >= window);
  at::Tensor bias = at::where(hidden, -std::numeric_limits<float>::infinity(), 0.0f).unsqueeze(0);
  if (spec.position != PositionKind::kAlibi) return bias.to(options);
  std::vector<double> slopes = AlibiSlopes(spec.heads);
  const at::Tensor slope =
      at::from_blob(slopes.data(), {spec.heads, 1, 1}, at::kDouble).to(options);
  return bias.to(options) - slope * distance.unsqueeze(0);
}

at::Tensor CausalAttention(const ArchitectureSpec& spec, const RopeTable& rope,
                           const AttentionForm& form, const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v) {
  const int64_t tokens = q.size(0), dim = spec.head_dim, group = spec.heads / spec.kv_heads;
  const float scale = static_cast<float>(spec.score_scale());
  const at::Tensor rq = RotateHeads(spec, rope, form.local, form.q_norm, q, spec.heads, scale);
  const at::Tensor rk = RotateHeads(spec, rope, form.local, form.k_norm, k, spec.kv_heads, 1.0f);
  const int64_t chunk = std::min(tokens, kAttentionChunk);
  const bool plain = PlainScores(spec, form);
  // -infinity above the diagonal.
  const at::Tensor mask =
      at::full({chunk, chunk}, -std::numeric_limits<double>::infinity(), at::kFloat).triu(1);

  at::Tensor out = at::empty({tokens, spec.heads * dim}, at::kFloat);
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t size = std::min(chunk, tokens - begin), end = begin + size;
    const int64_t first = form.window > 0 ? std::max<int64_t>(0, begin - form.window + 1) : 0;
    const int64_t seen = end - first;
    at::Tensor bias;
    if (!plain) bias = ScoreBias(spec, form.window, begin, size, first, seen, q.options());
    for (int64_t head = 0; head < spec.heads; ++head) {
      const int64_t kv = head / group;
      at::Tensor scores = at::mm(rq.select(0, head).narrow(0, begin, size),
                                 rk.select(0, kv).narrow(0, first, seen).t());
      SoftCap(spec.attention_cap, scores);
      if (plain) {
        scores.narrow(1, begin, size).add_(mask.narrow(0, 0, size).narrow(1, 0, size));
      } else {
        scores.add_(bias.select(0, bias.size(0) == 1 ? 0 : head));
      }
      at::Tensor target = out.narrow(0, begin, size).narrow(1, head * dim, dim);
      at::mm_out(target, at::softmax(scores, -1),
                 v.narrow(1, kv * dim, dim).narrow(0, first, seen));
    }
  }
  return out;
}

void Activate(Activation activation, at::Tensor& gate, const at::Tensor& up) {
  switch (activation) {
    case Activation::kSilu:
      at::silu_(gate);
      break;
    case Activation::kGeluTanh:
      at::gelu_(gate, "tanh");
      break;
    case Activation::kRelu:
      at::relu_(gate);
      break;
  }
  if (up.defined()) gate.mul_(up);
}

void SoftCap(double cap, at::Tensor& x) {
  if (cap > 0) x.div_(cap).tanh_().mul_(cap);
}

}  // namespace shiftadd::reference
