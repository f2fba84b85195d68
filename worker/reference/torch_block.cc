#include "worker/reference/torch_block.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/triu.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace shiftadd::reference {
namespace {

// Queries whose scores exist together. Short on the CPU, where half of a square of scores is
// masked; long where the launch of a kernel costs more.
int64_t AttentionChunk(const at::Tensor& x) { return x.is_cpu() ? kAttentionChunk : 1024; }

// x [tokens, heads, dim], normed if there is a norm, then rotated by halves if there are positions.
at::Tensor Rotate(const ArchitectureSpec& s, const RopeTensors& rope, bool local,
                  const at::Tensor& norm, const at::Tensor& x) {
  const at::Tensor y = norm.defined() ? TorchRmsNorm(x, norm, s.norm_eps) : x;
  const bool own = local && rope.local_cos.defined();
  const at::Tensor &cos = own ? rope.local_cos : rope.cos, &sin = own ? rope.local_sin : rope.sin;
  if (!cos.defined()) return y;
  const int64_t half = y.size(2) / 2;
  const at::Tensor a = y.narrow(2, 0, half), b = y.narrow(2, half, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, 2);
}

at::Tensor Activated(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kSilu:
      break;
  }
  return at::silu(x);
}

// The stream behind attention or MLP: y is what it gave.
at::Tensor Joined(const ArchitectureSpec& s, const NormWeights& norm, const NormWeights& post,
                  const at::Tensor& h, const at::Tensor& y) {
  if (s.norm_place == NormPlace::kAfter) return TorchNorm(h + y, norm, s.norm_eps);
  if (s.norm_place == NormPlace::kAround) return h + TorchNorm(y, post, s.norm_eps);
  return h + y;
}

// What attention or MLP reads.
at::Tensor Input(const ArchitectureSpec& s, const NormWeights& norm, const at::Tensor& h) {
  return s.norm_place == NormPlace::kAfter ? h : TorchNorm(h, norm, s.norm_eps);
}

// A variable of the next piece: the values of x, with a gradient of its own.
at::Tensor Leaf(const at::Tensor& x) {
  at::Tensor leaf = x.detach();
  leaf.set_requires_grad(true);
  return leaf;
}

// The sum of <y, g> has this gradient at `leaf`, from which y was computed.
at::Tensor GradientAt(const at::Tensor& leaf) {
  return leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf);
}

// From g, the gradient at Joined(…, stream, y) with y = last(x), to the one at y, and adds to the
// one at `stream`. y is computed only where a norm stands behind it.
at::Tensor JoinBackward(const ArchitectureSpec& s, const NormWeights& norm, const NormWeights& post,
                        const at::Tensor& stream, const Linear& last, const at::Tensor& x,
                        const at::Tensor& g) {
  if (s.norm_place == NormPlace::kBefore) {
    stream.backward(g);  // a leaf: adds g to its gradient
    return g;
  }
  const at::Tensor y = Leaf(last(x));
  Joined(s, norm, post, stream, y).backward(g);
  return GradientAt(y);
}

// From g, the gradient at the block's output, to the gradient at `middle`, the stream between
// attention and MLP.
at::Tensor MlpBackward(const ArchitectureSpec& s, const BlockWeights& w, const at::Tensor& middle,
                       const at::Tensor& g, const GradientVisitor& visit) {
  const at::Tensor stream = Leaf(middle);
  const at::Tensor x = Input(s, w.mlp_norm, stream);
  const at::Tensor x_values = x.detach();
  at::Tensor gate;
  const at::Tensor up = Leaf(w.up(x_values));
  if (s.gated) gate = Leaf(w.gate(x_values));
  const at::Tensor act = s.gated ? Activated(s.activation, gate) * up : Activated(s.activation, up);

  const size_t down = s.gated ? 6 : 5;  // in BlockLayers
  const at::Tensor g_down =
      JoinBackward(s, w.mlp_norm, w.mlp_post_norm, stream, w.down, act.detach(), g);
  visit(down, g_down);
  act.backward(w.down.InputGradient(g_down));
  const at::Tensor g_up = GradientAt(up);
  visit(down - 1, g_up);
  at::Tensor g_x = w.up.InputGradient(g_up);
  if (s.gated) {
    const at::Tensor g_gate = GradientAt(gate);
    visit(down - 2, g_gate);
    g_x = w.gate.InputGradient(g_gate) + g_x;
  }
  x.backward(g_x);
  return GradientAt(stream);
}

}  // namespace

RopeTensors MakeRopeTensors(const RopeTable& table, int64_t tokens, at::Device device) {
  const auto copy = [&](const std::vector<float>& values) {
    return at::from_blob(const_cast<float*>(values.data()), {tokens, 1, table.half()}, at::kFloat)
        .clone()
        .to(device);
  };
  if (table.half() == 0) return {};
  RopeTensors out{copy(table.cos()), copy(table.sin()), {}, {}};
  if (table.has_local()) {
    out.local_cos = copy(table.cos(true));
    out.local_sin = copy(table.sin(true));
  }
  return out;
}

at::Tensor TorchRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x * at::rsqrt(x.square().mean(-1, /*keepdim=*/true) + eps) * weight;
}

at::Tensor TorchNorm(const at::Tensor& x, const NormWeights& norm, double eps) {
  if (!norm.bias.defined()) return TorchRmsNorm(x, norm.weight, eps);
  return at::layer_norm(x, norm.weight.sizes(), norm.weight, norm.bias, eps);
}

at::Tensor TorchAttention(const ArchitectureSpec& s, const RopeTensors& rope, const at::Tensor& q,
                          const at::Tensor& k, const at::Tensor& v, const AttentionForm& form) {
  const int64_t tokens = q.size(0), dim = s.head_dim, kv = s.kv_heads, group = s.heads / kv;
  // The queries that share a key stand together: [kv, group, tokens, dim].
  const at::Tensor queries =
      (Rotate(s, rope, form.local, form.q_norm, q.view({tokens, s.heads, dim})) * s.score_scale())
          .view({tokens, kv, group, dim})
          .permute({1, 2, 0, 3});
  const at::Tensor keys =
      Rotate(s, rope, form.local, form.k_norm, k.view({tokens, kv, dim})).permute({1, 2, 0});
  const at::Tensor values = v.view({tokens, kv, dim}).transpose(0, 1);
  const int64_t chunk = std::min(tokens, AttentionChunk(q));
  const bool plain = PlainScores(s, form);
  const at::Tensor mask =
      at::full({chunk, chunk}, -std::numeric_limits<double>::infinity(), q.options()).triu(1);

  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t size = std::min(chunk, tokens - begin);
    const int64_t first = form.window > 0 ? std::max<int64_t>(0, begin - form.window + 1) : 0;
    const int64_t seen = begin + size - first;
    const at::Tensor part = queries.narrow(2, begin, size).reshape({kv, group * size, dim});
    at::Tensor scores = at::bmm(part, keys.narrow(2, first, seen)).view({kv, group, size, seen});
    if (plain) {
      // In place: the backward pass of a product does not look at its result.
      scores.narrow(3, begin, size).add_(mask.narrow(0, 0, size).narrow(1, 0, size));
    } else {
      if (s.attention_cap > 0) scores = (scores / s.attention_cap).tanh() * s.attention_cap;
      // ALiBi's models have a key for each query: [heads, …] is [kv, group = 1, …] then.
      scores =
          scores + ScoreBias(s, form.window, begin, size, first, seen, q.options()).unsqueeze(1);
    }
    const at::Tensor p = at::softmax(scores, -1).view({kv, group * size, seen});
    parts.push_back(at::bmm(p, values.narrow(1, first, seen)).view({kv, group, size, dim}));
  }
  const at::Tensor mixed = parts.size() == 1 ? parts[0] : at::cat(parts, 2);
  return mixed.permute({2, 0, 1, 3}).reshape({tokens, s.heads * dim});
}

at::Tensor BlockForward(const ArchitectureSpec& s, const BlockWeights& w, const RopeTensors& rope,
                        const at::Tensor& h, const TensorVisitor* visit) {
  const auto show = [&](BlockInput input, const at::Tensor& x) {
    if (visit != nullptr) (*visit)(input, x);
  };
  at::Tensor x = Input(s, w.attn_norm, h);
  show(BlockInput::kAttn, x);
  const at::Tensor mixed = TorchAttention(s, rope, w.q(x), w.k(x), w.v(x), w.form);
  show(BlockInput::kAttnOut, mixed);
  const at::Tensor middle = Joined(s, w.attn_norm, w.attn_post_norm, h, w.o(mixed));
  x = Input(s, w.mlp_norm, middle);
  show(BlockInput::kMlp, x);
  const at::Tensor act =
      s.gated ? Activated(s.activation, w.gate(x)) * w.up(x) : Activated(s.activation, w.up(x));
  show(BlockInput::kMlpAct, act);
  return Joined(s, w.mlp_norm, w.mlp_post_norm, middle, w.down(act));
}

at::Tensor BlockBackward(const ArchitectureSpec& s, const BlockWeights& w, const RopeTensors& rope,
                         const at::Tensor& h, const at::Tensor& g, const GradientVisitor& visit) {
  const at::Tensor input = Leaf(h);
  const at::Tensor x = Input(s, w.attn_norm, input);
  const at::Tensor x_values = x.detach();
  const at::Tensor q = Leaf(w.q(x_values)), k = Leaf(w.k(x_values)), v = Leaf(w.v(x_values));
  const at::Tensor mixed = TorchAttention(s, rope, q, k, v, w.form);
  const at::Tensor mixed_values = mixed.detach();
  const at::Tensor middle = Joined(s, w.attn_norm, w.attn_post_norm, h, w.o(mixed_values));
  const at::Tensor g_middle = MlpBackward(s, w, middle, g, visit);

  const at::Tensor g_o =
      JoinBackward(s, w.attn_norm, w.attn_post_norm, input, w.o, mixed_values, g_middle);
  visit(3, g_o);
  mixed.backward(w.o.InputGradient(g_o));
  const at::Tensor g_q = GradientAt(q), g_k = GradientAt(k), g_v = GradientAt(v);
  visit(2, g_v);
  visit(1, g_k);
  visit(0, g_q);
  x.backward(w.q.InputGradient(g_q) + w.k.InputGradient(g_k) + w.v.InputGradient(g_v));
  return GradientAt(input);
}

at::Tensor MeanSquares(const at::Tensor& g, int64_t chunks) {
  const int64_t rows = g.size(1);
  const at::Tensor square = g.square();
  at::Tensor means = at::empty({g.size(0), chunks}, g.options());
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t begin = rows * c / chunks, end = rows * (c + 1) / chunks;
    means.select(1, c).copy_(square.narrow(1, begin, end - begin).mean(1));
  }
  return means;
}

namespace {

// What the head itself reads.
at::Tensor HeadInput(const ArchitectureSpec& s, const HeadWeights& w, const at::Tensor& h) {
  return w.norm.weight.defined() ? TorchNorm(h, w.norm, s.norm_eps) : h;
}

}  // namespace

at::Tensor TorchHead(const ArchitectureSpec& s, const HeadWeights& w, const at::Tensor& h) {
  const at::Tensor x = HeadInput(s, w, h);
  at::Tensor logits = w.head(w.proj.loaded() ? w.proj(x) : x);
  SoftCap(s.logit_cap, logits);
  return logits;
}

at::Tensor LossGradient(const ArchitectureSpec& s, const HeadWeights& w, const at::Tensor& h,
                        const at::Tensor& labels, int64_t chunk) {
  at::Tensor out = at::zeros_like(h);  // the last token predicts nothing
  const int64_t predicted = h.size(0) - 1;
  for (int64_t begin = 0; begin < predicted; begin += chunk) {
    const int64_t size = std::min(chunk, predicted - begin);
    const at::Tensor part = Leaf(h.narrow(0, begin, size));
    const at::Tensor x = HeadInput(s, w, part);
    const at::Tensor read = w.proj.loaded() ? w.proj(x.detach()) : x.detach();
    at::Tensor logits = w.head(read);
    SoftCap(s.logit_cap, logits);
    // The gradient at the logits: softmax less one at the label.
    at::Tensor p = at::softmax(logits, -1);
    const at::Tensor label = labels.narrow(0, begin, size).unsqueeze(1);
    p.scatter_add_(1, label, at::full({size, 1}, -1.0, p.options()));
    if (s.logit_cap > 0) p.mul_(1.0 - (logits / s.logit_cap).square());
    at::Tensor g = w.head.InputGradient(p);
    if (w.proj.loaded()) g = w.proj.InputGradient(g);
    x.backward(g);
    out.narrow(0, begin, size).copy_(GradientAt(part));
  }
  return out;
}

}  // namespace shiftadd::reference
