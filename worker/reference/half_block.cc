#include "worker/reference/half_block.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_fused_rms_norm.h>
#include <ATen/ops/_fused_rms_norm_backward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/device_tensors.h"

namespace shiftadd::reference {
namespace {

// While this lives, attention's backward pass adds in a fixed order. With `warn_only` it would
// warn, and add in any order.
class Deterministic {
 public:
  Deterministic() { at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false); }
  ~Deterministic() { at::globalContext().setDeterministicAlgorithms(false, false); }
  Deterministic(const Deterministic&) = delete;
  Deterministic& operator=(const Deterministic&) = delete;
};

at::Tensor Apply(const HalfLinear& w, const at::Tensor& x) {
  return w.bias.defined() ? at::linear(x, w.weight, w.bias) : at::linear(x, w.weight);
}

// a b in fp32, a and b bf16.
at::Tensor Product(const at::Tensor& a, const at::Tensor& b) {
  return a.is_cpu() ? at::mm(a.to(at::kFloat), b.to(at::kFloat)) : at::mm(a, b, at::kFloat);
}

at::Tensor InputGradient(const HalfLinear& w, const at::Tensor& g) { return Product(g, w.weight); }

// The norm of h [tokens, hidden] fp32, in bf16.
at::Tensor Norm(const at::Tensor& h, const at::Tensor& weight, double eps) {
  if (h.is_cpu()) return TorchRmsNorm(h, weight, eps).to(at::kBFloat16);
  return std::get<0>(at::_fused_rms_norm(h, weight.sizes(), weight, eps)).to(at::kBFloat16);
}

// The gradient at h, given g at the norm's output, both fp32.
at::Tensor NormBackward(const at::Tensor& h, const at::Tensor& weight, double eps,
                        const at::Tensor& g) {
  const at::Tensor inverse = at::rsqrt(h.square().mean(-1, /*keepdim=*/true) + eps);
  if (!h.is_cpu()) {
    return std::get<0>(
        at::_fused_rms_norm_backward(g, h, weight.sizes(), inverse, weight, {true, false}));
  }
  const at::Tensor scaled = g * weight;
  const at::Tensor along = (scaled * h).mean(-1, /*keepdim=*/true) * inverse.pow(3);
  return scaled * inverse - h * along;
}

bool Fused(const ArchitectureSpec& s, const at::Tensor& x) {
  return x.is_cuda() && s.head_dim % 8 == 0 && s.head_dim <= 256;
}

// x [count, length, heads, dim] bf16, rotated by the positions' angles, or (`back`) by minus them.
at::Tensor Rotate(const RopeTensors& rope, const at::Tensor& x, bool back) {
  const int64_t half = x.size(3) / 2;
  const at::Tensor a = x.narrow(3, 0, half), b = x.narrow(3, half, half);
  at::Tensor out = at::empty(x.sizes(), x.options());
  const at::Tensor b_sin = b * rope.sin, a_sin = a * rope.sin;
  out.narrow(3, 0, half).copy_(back ? (a * rope.cos).add_(b_sin) : (a * rope.cos).sub_(b_sin));
  out.narrow(3, half, half).copy_(back ? (b * rope.cos).sub_(a_sin) : (b * rope.cos).add_(a_sin));
  return out;
}

at::Tensor Leaf(const at::Tensor& x) {
  at::Tensor leaf = x.detach();
  leaf.set_requires_grad(true);
  return leaf;
}

class Attention {
 public:
  Attention(const ArchitectureSpec& s, const RopeTensors& rope, const Microbatch& batch)
      : s_(s), rope_(rope), batch_(batch) {}

  at::Tensor Forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     std::vector<at::Tensor>* fused) const {
    if (!Fused(s_, q)) return Plain(q, k, v);
    const at::Tensor queries = Rotate(rope_, Heads(q, s_.heads), false);
    const at::Tensor keys = Rotate(rope_, Heads(k, s_.kv_heads), false);
    auto [out, lse, rng, unused, debug] = at::_flash_attention_forward(
        queries, keys, Heads(v, s_.kv_heads), std::nullopt, std::nullopt, batch_.length,
        batch_.length, /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false);
    if (fused != nullptr) *fused = {queries, keys, out, lse, rng, unused};
    return out.reshape({Tokens(), s_.heads * s_.head_dim});
  }

  // The gradients at q, k and v, given g at the output.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> Backward(const HalfActivations& kept,
                                                          const at::Tensor& g) const {
    if (!Fused(s_, g)) return PlainBackward(kept, g);
    const Deterministic fixed_order;
    const std::vector<at::Tensor>& f = kept.fused;
    const auto [g_q, g_k, g_v] = at::_flash_attention_backward(
        Heads(g, s_.heads), f[0], f[1], Heads(kept.v, s_.kv_heads), f[2], f[3], at::Tensor(),
        at::Tensor(), batch_.length, batch_.length, /*dropout_p=*/0.0, /*is_causal=*/true, f[4],
        f[5]);
    const auto flat = [&](const at::Tensor& x) { return x.reshape({Tokens(), -1}); };
    return {flat(Rotate(rope_, g_q, true)), flat(Rotate(rope_, g_k, true)), flat(g_v)};
  }

 private:
  int64_t Tokens() const { return batch_.count * batch_.length; }
  at::Tensor Heads(const at::Tensor& x, int64_t heads) const {
    return x.view({batch_.count, batch_.length, heads, s_.head_dim});
  }
  at::Tensor Sequence(const at::Tensor& x, int64_t i) const {
    return x.narrow(0, i * batch_.length, batch_.length).to(at::kFloat);
  }

  at::Tensor Plain(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const {
    std::vector<at::Tensor> parts;
    for (int64_t i = 0; i < batch_.count; ++i) {
      parts.push_back(TorchAttention(s_, rope_, Sequence(q, i), Sequence(k, i), Sequence(v, i)));
    }
    return at::cat(parts, 0).to(at::kBFloat16);
  }

  std::tuple<at::Tensor, at::Tensor, at::Tensor> PlainBackward(const HalfActivations& kept,
                                                               const at::Tensor& g) const {
    std::vector<at::Tensor> parts[3];
    const at::AutoGradMode gradients(true);
    for (int64_t i = 0; i < batch_.count; ++i) {
      const at::Tensor leaves[3] = {Leaf(Sequence(kept.q, i)), Leaf(Sequence(kept.k, i)),
                                    Leaf(Sequence(kept.v, i))};
      TorchAttention(s_, rope_, leaves[0], leaves[1], leaves[2]).backward(Sequence(g, i));
      for (int j : {0, 1, 2}) parts[j].push_back(leaves[j].grad());
    }
    const auto join = [](const std::vector<at::Tensor>& x) {
      return at::cat(x, 0).to(at::kBFloat16);
    };
    return {join(parts[0]), join(parts[1]), join(parts[2])};
  }

  const ArchitectureSpec& s_;
  const RopeTensors& rope_;
  const Microbatch& batch_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const HalfBlock>> ReadHalfBlock(const WeightProvider& weights,
                                                               int64_t block, at::Device device) {
  const ArchitectureSpec& s = weights.spec();
  const std::string prefix = absl::StrCat("blocks.", block, ".");
  auto b = std::make_shared<HalfBlock>();
  SA_ASSIGN_OR_RETURN(b->attn_norm,
                      ReadToDevice(weights, prefix + "attn_norm", {s.hidden}, at::kFloat, device));
  SA_ASSIGN_OR_RETURN(b->mlp_norm,
                      ReadToDevice(weights, prefix + "mlp_norm", {s.hidden}, at::kFloat, device));
  HalfLinear* const linears[] = {&b->q, &b->k, &b->v, &b->o, &b->gate, &b->up, &b->down};
  const std::vector<LinearLayer> layers = BlockLayers(s, block);
  for (size_t i = 0; i < layers.size(); ++i) {
    const LinearLayer& layer = layers[i];
    SA_ASSIGN_OR_RETURN(
        linears[i]->weight,
        ReadToDevice(weights, layer.name, {layer.rows, layer.cols}, at::kBFloat16, device));
    const std::string bias = absl::StrCat(layer.name, ".bias");
    if (!weights.Has(bias)) continue;
    SA_ASSIGN_OR_RETURN(linears[i]->bias,
                        ReadToDevice(weights, bias, {layer.rows}, at::kBFloat16, device));
  }
  return std::shared_ptr<const HalfBlock>(std::move(b));
}

at::Tensor HalfForward(const ArchitectureSpec& s, const HalfBlock& w, const RopeTensors& rope,
                       const Microbatch& batch, const at::Tensor& h, const TensorVisitor* visit,
                       HalfActivations* keep) {
  const at::NoGradGuard no_grad;
  const auto show = [&](BlockInput input, const at::Tensor& x) {
    if (visit != nullptr) (*visit)(input, x);
  };
  at::Tensor x = Norm(h, w.attn_norm, s.norm_eps);
  show(BlockInput::kAttn, x);
  const at::Tensor q = Apply(w.q, x), k = Apply(w.k, x), v = Apply(w.v, x);
  const at::Tensor mixed =
      Attention(s, rope, batch).Forward(q, k, v, keep != nullptr ? &keep->fused : nullptr);
  show(BlockInput::kAttnOut, mixed);
  const at::Tensor middle = h + Apply(w.o, mixed);
  x = Norm(middle, w.mlp_norm, s.norm_eps);
  show(BlockInput::kMlp, x);
  const at::Tensor gate = Apply(w.gate, x), up = Apply(w.up, x);
  at::Tensor act = at::silu(gate).mul_(up);
  show(BlockInput::kMlpAct, act);
  if (keep != nullptr) {
    keep->h = h;
    keep->middle = middle;
    // Flash attention keeps its own, rotated.
    if (keep->fused.empty()) {
      keep->q = q;
      keep->k = k;
    }
    keep->v = v;
    keep->mixed = mixed;
    keep->gate = gate;
    keep->up = up;
  }
  return middle + Apply(w.down, act);
}

at::Tensor HalfBackward(const ArchitectureSpec& s, const HalfBlock& w, const RopeTensors& rope,
                        const Microbatch& batch, const HalfActivations& kept, const at::Tensor& g,
                        const GradientVisitor& visit) {
  const at::NoGradGuard no_grad;
  const at::Tensor g_down = g.to(at::kBFloat16);
  visit(6, g_down);
  const at::Tensor g_act = at::mm(g_down, w.down.weight);
  const at::Tensor g_up = at::silu(kept.gate).mul_(g_act);
  visit(5, g_up);
  const at::Tensor g_gate = at::silu_backward(g_act * kept.up, kept.gate);
  visit(4, g_gate);
  const at::Tensor g_middle =
      g + NormBackward(kept.middle, w.mlp_norm, s.norm_eps,
                       InputGradient(w.gate, g_gate).add_(InputGradient(w.up, g_up)));
  const at::Tensor g_o = g_middle.to(at::kBFloat16);
  visit(3, g_o);
  const auto [g_q, g_k, g_v] = Attention(s, rope, batch).Backward(kept, at::mm(g_o, w.o.weight));
  visit(2, g_v);
  visit(1, g_k);
  visit(0, g_q);
  at::Tensor g_x = InputGradient(w.q, g_q);
  g_x.add_(InputGradient(w.k, g_k)).add_(InputGradient(w.v, g_v));
  return g_middle + NormBackward(kept.h, w.attn_norm, s.norm_eps, g_x);
}

at::Tensor HalfMeanSquares(const at::Tensor& g, int64_t chunks) {
  const int64_t rows = g.size(1);
  std::vector<at::Tensor> means;
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t begin = rows * c / chunks, size = rows * (c + 1) / chunks - begin;
    means.push_back(
        at::linalg_vector_norm(g.narrow(1, begin, size), 2, {1}, /*keepdim=*/false, at::kFloat)
            .square_()
            .mul_(1.0 / static_cast<double>(size)));
  }
  return at::stack(means, 1);
}

at::Tensor HalfLossGradient(const ArchitectureSpec& s, const at::Tensor& final_norm,
                            const at::Tensor& head, const Microbatch& batch, const at::Tensor& h,
                            const at::Tensor& labels, int64_t chunk) {
  const at::NoGradGuard no_grad;
  at::Tensor out = at::empty(h.sizes(), h.options());
  const int64_t tokens = h.size(0);
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t size = std::min(chunk, tokens - begin);
    const at::Tensor part = h.narrow(0, begin, size);
    const at::Tensor x = Norm(part, final_norm, s.norm_eps);
    // The gradient at the logits: softmax less one at the label.
    at::Tensor p = at::softmax(Product(x, head.t()), -1);
    p.scatter_add_(1, labels.narrow(0, begin, size).unsqueeze(1),
                   at::full({size, 1}, -1.0, p.options()));
    const at::Tensor g = Product(p.to(at::kBFloat16), head);
    out.narrow(0, begin, size).copy_(NormBackward(part, final_norm, s.norm_eps, g));
  }
  // A sequence's last token predicts nothing.
  out.view({batch.count, batch.length, -1}).select(1, batch.length - 1).zero_();
  return out;
}

}  // namespace shiftadd::reference
