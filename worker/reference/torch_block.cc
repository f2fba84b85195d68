#include "worker/reference/torch_block.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
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

// x [tokens, heads, dim], rotate-half.
at::Tensor Rotate(const RopeTensors& rope, const at::Tensor& x) {
  const int64_t half = x.size(2) / 2;
  const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
  return at::cat({a * rope.cos - b * rope.sin, b * rope.cos + a * rope.sin}, 2);
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

// From g, the gradient at the block's output, to the gradient at `middle` = h + o(…), the stream
// between attention and MLP.
at::Tensor MlpBackward(const ArchitectureSpec& s, const BlockWeights& w, const at::Tensor& middle,
                       const at::Tensor& g, const GradientVisitor& visit) {
  const at::Tensor stream = Leaf(middle);
  const at::Tensor x = TorchRmsNorm(stream, w.mlp_norm, s.norm_eps);
  const at::Tensor x_values = x.detach();
  const at::Tensor gate = Leaf(w.gate(x_values)), up = Leaf(w.up(x_values));
  const at::Tensor act = at::silu(gate) * up;

  visit(6, g);
  act.backward(w.down.InputGradient(g));
  const at::Tensor g_gate = GradientAt(gate), g_up = GradientAt(up);
  visit(5, g_up);
  visit(4, g_gate);
  x.backward(w.gate.InputGradient(g_gate) + w.up.InputGradient(g_up));
  return g + GradientAt(stream);
}

}  // namespace

RopeTensors MakeRopeTensors(const RopeTable& table, int64_t tokens, at::Device device) {
  const auto copy = [&](const std::vector<float>& values) {
    return at::from_blob(const_cast<float*>(values.data()), {tokens, 1, table.half()}, at::kFloat)
        .clone()
        .to(device);
  };
  return {copy(table.cos()), copy(table.sin())};
}

at::Tensor TorchRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x * at::rsqrt(x.square().mean(-1, /*keepdim=*/true) + eps) * weight;
}

at::Tensor TorchAttention(const ArchitectureSpec& s, const RopeTensors& rope, const at::Tensor& q,
                          const at::Tensor& k, const at::Tensor& v) {
  const int64_t tokens = q.size(0), dim = s.head_dim, kv = s.kv_heads, group = s.heads / kv;
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  // The queries that share a key stand together: [kv, group, tokens, dim].
  const at::Tensor queries = (Rotate(rope, q.view({tokens, s.heads, dim})) * scale)
                                 .view({tokens, kv, group, dim})
                                 .permute({1, 2, 0, 3});
  const at::Tensor keys = Rotate(rope, k.view({tokens, kv, dim})).permute({1, 2, 0});
  const at::Tensor values = v.view({tokens, kv, dim}).transpose(0, 1);
  const int64_t chunk = std::min(tokens, AttentionChunk(q));
  const at::Tensor mask =
      at::full({chunk, chunk}, -std::numeric_limits<double>::infinity(), q.options()).triu(1);

  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t size = std::min(chunk, tokens - begin), seen = begin + size;
    const at::Tensor part = queries.narrow(2, begin, size).reshape({kv, group * size, dim});
    at::Tensor scores = at::bmm(part, keys.narrow(2, 0, seen)).view({kv, group, size, seen});
    // In place: the backward pass of a product does not look at its result.
    scores.narrow(3, begin, size).add_(mask.narrow(0, 0, size).narrow(1, 0, size));
    const at::Tensor p = at::softmax(scores, -1).view({kv, group * size, seen});
    parts.push_back(at::bmm(p, values.narrow(1, 0, seen)).view({kv, group, size, dim}));
  }
  const at::Tensor mixed = parts.size() == 1 ? parts[0] : at::cat(parts, 2);
  return mixed.permute({2, 0, 1, 3}).reshape({tokens, s.heads * dim});
}

at::Tensor BlockForward(const ArchitectureSpec& s, const BlockWeights& w, const RopeTensors& rope,
                        const at::Tensor& h, const TensorVisitor* visit) {
  const auto show = [&](BlockInput input, const at::Tensor& x) {
    if (visit != nullptr) (*visit)(input, x);
  };
  at::Tensor x = TorchRmsNorm(h, w.attn_norm, s.norm_eps);
  show(BlockInput::kAttn, x);
  const at::Tensor mixed = TorchAttention(s, rope, w.q(x), w.k(x), w.v(x));
  show(BlockInput::kAttnOut, mixed);
  const at::Tensor middle = h + w.o(mixed);
  x = TorchRmsNorm(middle, w.mlp_norm, s.norm_eps);
  show(BlockInput::kMlp, x);
  const at::Tensor act = at::silu(w.gate(x)) * w.up(x);
  show(BlockInput::kMlpAct, act);
  return middle + w.down(act);
}

at::Tensor BlockBackward(const ArchitectureSpec& s, const BlockWeights& w, const RopeTensors& rope,
                         const at::Tensor& h, const at::Tensor& g, const GradientVisitor& visit) {
  const at::Tensor input = Leaf(h);
  const at::Tensor x = TorchRmsNorm(input, w.attn_norm, s.norm_eps);
  const at::Tensor x_values = x.detach();
  const at::Tensor q = Leaf(w.q(x_values)), k = Leaf(w.k(x_values)), v = Leaf(w.v(x_values));
  const at::Tensor mixed = TorchAttention(s, rope, q, k, v);
  const at::Tensor g_middle = MlpBackward(s, w, h + w.o(mixed.detach()), g, visit);

  visit(3, g_middle);
  mixed.backward(w.o.InputGradient(g_middle));
  const at::Tensor g_q = GradientAt(q), g_k = GradientAt(k), g_v = GradientAt(v);
  visit(2, g_v);
  visit(1, g_k);
  visit(0, g_q);
  x.backward(w.q.InputGradient(g_q) + w.k.InputGradient(g_k) + w.v.InputGradient(g_v));
  return g_middle + GradientAt(input);
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

at::Tensor LossGradient(const ArchitectureSpec& s, const at::Tensor& final_norm, const Linear& head,
                        const at::Tensor& h, const at::Tensor& labels, int64_t chunk) {
  at::Tensor out = at::zeros_like(h);  // the last token predicts nothing
  const int64_t predicted = h.size(0) - 1;
  for (int64_t begin = 0; begin < predicted; begin += chunk) {
    const int64_t size = std::min(chunk, predicted - begin);
    const at::Tensor part = Leaf(h.narrow(0, begin, size));
    const at::Tensor x = TorchRmsNorm(part, final_norm, s.norm_eps);
    // The gradient at the logits: softmax less one at the label.
    at::Tensor p = at::softmax(head(x.detach()), -1);
    const at::Tensor label = labels.narrow(0, begin, size).unsqueeze(1);
    p.scatter_add_(1, label, at::full({size, 1}, -1.0, p.options()));
    x.backward(head.InputGradient(p));
    out.narrow(0, begin, size).copy_(GradientAt(part));
  }
  return out;
}

}  // namespace shiftadd::reference
