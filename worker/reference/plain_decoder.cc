#include "worker/reference/plain_decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/device_tensors.h"
#include "worker/reference/torch_block.h"

namespace shiftadd::reference {

at::Tensor PlainDecoder::Product::operator()(const at::Tensor& x) const {
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

// --- Reading -------------------------------------------------------------------------------------

class PlainDecoder::Reader {
 public:
  Reader(const WeightProvider& weights, at::Device device, const Options& options)
      : weights_(weights), s_(weights.spec()), device_(device), options_(options) {}

  absl::StatusOr<at::Tensor> Tensor(const std::string& name, std::vector<int64_t> shape) const {
    return ReadToDevice(weights_, name, shape, options_.type, device_);
  }

  absl::StatusOr<NormWeights> Norm(const std::string& name) const {
    NormWeights norm;
    SA_ASSIGN_OR_RETURN(norm.weight, Tensor(name, {s_.hidden}));
    if (s_.norm == NormKind::kLayer) {
      SA_ASSIGN_OR_RETURN(norm.bias, Tensor(name + ".bias", {s_.hidden}));
    }
    return norm;
  }

  // The layers that read `input`, as one product.
  absl::StatusOr<Product> Joined(int64_t block, BlockInput input) const {
    std::vector<at::Tensor> parts, biases;
    for (const LinearLayer& layer : BlockLayers(s_, block)) {
      if (layer.input != input) continue;
      SA_ASSIGN_OR_RETURN(parts.emplace_back(), Tensor(layer.name, {layer.rows, layer.cols}));
      if (!HasBias(s_, input)) continue;
      SA_ASSIGN_OR_RETURN(biases.emplace_back(), Tensor(layer.name + ".bias", {layer.rows}));
    }
    Product out;
    out.weight = parts.size() == 1 ? parts[0] : at::cat(parts, 0);
    if (!biases.empty()) out.bias = at::cat(biases, 0);
    return out;
  }

  absl::StatusOr<PlainDecoder::Block> Block(int64_t index) const {
    const std::string prefix = absl::StrCat("blocks.", index, ".");
    PlainDecoder::Block b;
    SA_ASSIGN_OR_RETURN(b.attn_norm, Norm(prefix + "attn_norm"));
    SA_ASSIGN_OR_RETURN(b.mlp_norm, Norm(prefix + "mlp_norm"));
    if (s_.norm_place == NormPlace::kAround) {
      SA_ASSIGN_OR_RETURN(b.attn_post_norm, Norm(prefix + "attn_post_norm"));
      SA_ASSIGN_OR_RETURN(b.mlp_post_norm, Norm(prefix + "mlp_post_norm"));
    }
    if (s_.qk_norm) {
      SA_ASSIGN_OR_RETURN(b.q_norm, Tensor(prefix + "attn.q_norm", {s_.head_dim}));
      SA_ASSIGN_OR_RETURN(b.k_norm, Tensor(prefix + "attn.k_norm", {s_.head_dim}));
    }
    b.local = s_.IsLocal(index);
    b.window = s_.WindowOf(index);
    SA_ASSIGN_OR_RETURN(b.qkv, Joined(index, BlockInput::kAttn));
    SA_ASSIGN_OR_RETURN(b.o, Joined(index, BlockInput::kAttnOut));
    SA_ASSIGN_OR_RETURN(b.gate_up, Joined(index, BlockInput::kMlp));
    SA_ASSIGN_OR_RETURN(b.down, Joined(index, BlockInput::kMlpAct));
    const std::vector<int64_t> cache = {options_.sequences, s_.kv_heads, options_.length,
                                        s_.head_dim};
    b.keys = at::zeros(cache, at::TensorOptions(device_).dtype(options_.type));
    b.values = at::zeros_like(b.keys);
    return b;
  }

  absl::Status Ends(PlainDecoder* out) const {
    const int64_t width = s_.embed_dim();
    SA_ASSIGN_OR_RETURN(out->embed_, Tensor("embed", {s_.vocab, width}));
    out->head_.weight = out->embed_;
    if (!s_.tied_embeddings) {
      SA_ASSIGN_OR_RETURN(out->head_.weight, Tensor("head", {s_.vocab, width}));
    }
    if (options_.float_logits) out->head_.weight = out->head_.weight.to(at::kFloat);
    if (s_.has_final_norm) {
      SA_ASSIGN_OR_RETURN(out->final_norm_, Norm("final_norm"));
    }
    if (s_.embed_norm) {
      SA_ASSIGN_OR_RETURN(out->embed_norm_, Norm("embed_norm"));
    }
    if (s_.position == PositionKind::kLearned) {
      SA_ASSIGN_OR_RETURN(out->positions_,
                          Tensor("positions", {s_.context + s_.position_offset, s_.hidden}));
    }
    if (s_.embed_width > 0) {
      SA_ASSIGN_OR_RETURN(out->embed_proj_.weight, Tensor("embed_proj", {s_.hidden, width}));
      SA_ASSIGN_OR_RETURN(out->head_proj_.weight, Tensor("head_proj", {width, s_.hidden}));
    }
    return absl::OkStatus();
  }

  void Positions(PlainDecoder* out) const {
    const int64_t length = options_.length;
    if (s_.rope()) {
      const RopeTensors rope = MakeRopeTensors(RopeTable(s_, length), length, device_);
      const auto angles = [&](const at::Tensor& cos, const at::Tensor& sin) -> Angles {
        if (!cos.defined()) return {};
        return {at::cat({cos, cos}, 2).to(options_.type),
                at::cat({-sin, sin}, 2).to(options_.type)};
      };
      out->angles_ = angles(rope.cos, rope.sin);
      out->local_angles_ = angles(rope.local_cos, rope.local_sin);
    }
    if (s_.position != PositionKind::kAlibi) return;
    const at::Tensor slopes = at::tensor(AlibiSlopes(s_.heads), at::kDouble).view({-1, 1, 1});
    out->alibi_ = (slopes * at::arange(1 - length, 1, at::kDouble)).to(options_.type).to(device_);
  }

 private:
  const WeightProvider& weights_;
  const ArchitectureSpec& s_;
  const at::Device device_;
  const Options options_;
};

absl::StatusOr<std::unique_ptr<PlainDecoder>> PlainDecoder::Create(const WeightProvider& weights,
                                                                   at::Device device,
                                                                   const Options& options) {
  auto out = std::unique_ptr<PlainDecoder>(new PlainDecoder(weights.spec(), options));
  const Reader reader(weights, device, options);
  SA_RETURN_IF_ERROR(reader.Ends(out.get()));
  for (int64_t b = 0; b < out->s_.blocks; ++b) {
    SA_ASSIGN_OR_RETURN(out->blocks_.emplace_back(), reader.Block(b));
  }
  reader.Positions(out.get());
  out->token_ = at::zeros({options.sequences}, at::TensorOptions(device).dtype(at::kLong));
  return out;
}

uint64_t PlainDecoder::bytes() const {
  uint64_t sum = 0;
  const auto add = [&](const at::Tensor& x) { sum += x.defined() ? x.nbytes() : 0; };
  const auto norm = [&](const NormWeights& n) {
    add(n.weight);
    add(n.bias);
  };
  const auto product = [&](const Product& p) {
    add(p.weight);
    add(p.bias);
  };
  add(embed_);
  add(positions_);
  norm(embed_norm_);
  norm(final_norm_);
  product(embed_proj_);
  product(head_proj_);
  if (!head_.weight.is_same(embed_)) product(head_);
  for (const Block& b : blocks_) {
    for (const NormWeights* n : {&b.attn_norm, &b.mlp_norm, &b.attn_post_norm, &b.mlp_post_norm})
      norm(*n);
    for (const Product* p : {&b.qkv, &b.o, &b.gate_up, &b.down}) product(*p);
    add(b.q_norm);
    add(b.k_norm);
  }
  return sum;
}

// --- Running -------------------------------------------------------------------------------------

at::Tensor PlainDecoder::Norm(const at::Tensor& x, const NormWeights& norm) const {
  if (!norm.weight.defined()) return x;
  if (!norm.bias.defined()) return at::rms_norm(x, norm.weight.sizes(), norm.weight, s_.norm_eps);
  return at::layer_norm(x, norm.weight.sizes(), norm.weight, norm.bias, s_.norm_eps);
}

at::Tensor PlainDecoder::Input(const NormWeights& norm, const at::Tensor& h) const {
  return s_.norm_place == NormPlace::kAfter ? h : Norm(h, norm);
}

at::Tensor PlainDecoder::Joined(const NormWeights& norm, const NormWeights& post,
                                const at::Tensor& h, const at::Tensor& y) const {
  switch (s_.norm_place) {
    case NormPlace::kAfter:
      return Norm(h + y, norm);
    case NormPlace::kAround:
      return h + Norm(y, post);
    case NormPlace::kBefore:
      break;
  }
  return h + y;
}

at::Tensor PlainDecoder::Embed(const at::Tensor& tokens, int64_t position) const {
  at::Tensor x = at::embedding(embed_, tokens);
  if (s_.embed_scale != 1.0) x = x * s_.embed_scale;
  if (embed_proj_.weight.defined()) x = embed_proj_(x);
  if (positions_.defined()) {
    x = x + positions_.narrow(0, s_.position_offset + position, tokens.size(0) / sequences_);
  }
  return Norm(x, embed_norm_);
}

// x [sequences * n, heads, dim], by halves.
at::Tensor PlainDecoder::Rotate(const at::Tensor& x, bool local, int64_t position) const {
  const Angles& angles = local && local_angles_.cos.defined() ? local_angles_ : angles_;
  if (!angles.cos.defined()) return x;
  const int64_t half = s_.head_dim / 2, n = x.size(0) / sequences_;
  const at::Tensor swapped = at::cat({x.narrow(2, half, half), x.narrow(2, 0, half)}, 2);
  return x * angles.cos.narrow(0, position, n) + swapped * angles.sin.narrow(0, position, n);
}

at::Tensor PlainDecoder::Bias(const Block& block, int64_t position, int64_t n,
                              int64_t first) const {
  const int64_t seen = position + n - first;
  if (n == 1 && !alibi_.defined()) return {};
  if (n == 1) return alibi_.narrow(2, alibi_.size(2) - seen, seen).unsqueeze(0);
  // From the first token on, attention knows how to hide what comes later.
  const bool all = block.window == 0 || n <= block.window;
  if (all && position == 0 && !alibi_.defined() && s_.attention_cap == 0) return {};
  // Distances in fp32: bf16 cannot tell 257 tokens from 256.
  return ScoreBias(s_, block.window, position, n, first, seen, embed_.options().dtype(at::kFloat))
      .unsqueeze(0)
      .to(embed_.scalar_type());
}

at::Tensor PlainDecoder::Mix(const at::Tensor& queries, const at::Tensor& keys,
                             const at::Tensor& values, const at::Tensor& bias) const {
  const int64_t n = queries.size(2), group = s_.heads / s_.kv_heads;
  if (s_.attention_cap == 0) {
    return at::scaled_dot_product_attention(
        queries, keys, values, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt, 0.0,
        /*is_causal=*/n > 1 && !bias.defined(), s_.score_scale(), /*enable_gqa=*/group != 1);
  }
  // No fused form caps scores.
  const at::Tensor q =
      queries.reshape({sequences_, s_.kv_heads, group, n, s_.head_dim}) * s_.score_scale();
  at::Tensor scores = at::matmul(q, keys.unsqueeze(2).transpose(3, 4));
  SoftCap(s_.attention_cap, scores);
  // A bias for each head (ALiBi) comes with a key for each query: group is 1 then.
  if (bias.defined()) scores = scores + bias.unsqueeze(2);
  const at::Tensor mixed = at::matmul(at::softmax(scores, -1), values.unsqueeze(2));
  return mixed.reshape({sequences_, s_.heads, n, s_.head_dim});
}

at::Tensor PlainDecoder::Attend(const Block& block, const at::Tensor& x, int64_t position) const {
  const int64_t rows = x.size(0), n = rows / sequences_, d = s_.head_dim;
  const at::Tensor qkv = block.qkv(x).view({rows, s_.heads + 2 * s_.kv_heads, d});
  // Queries and keys are turned together.
  at::Tensor turned = qkv.narrow(1, 0, s_.heads + s_.kv_heads);
  if (block.q_norm.defined()) {
    const auto norm = [&](int64_t first, int64_t heads, const at::Tensor& weight) {
      return at::rms_norm(qkv.narrow(1, first, heads), weight.sizes(), weight, s_.norm_eps);
    };
    turned =
        at::cat({norm(0, s_.heads, block.q_norm), norm(s_.heads, s_.kv_heads, block.k_norm)}, 1);
  }
  turned = Rotate(turned, block.local, position);
  const int64_t first = block.window > 0 ? std::max<int64_t>(0, position - block.window + 1) : 0;
  const auto by_head = [&](const at::Tensor& heads) {  // [sequences, heads, n, d]
    return heads.unflatten(0, {sequences_, n}).transpose(1, 2);
  };
  const auto keep = [&](const at::Tensor& cache, const at::Tensor& heads) {
    cache.narrow(2, position, n).copy_(by_head(heads));
    return cache.narrow(2, first, position + n - first);
  };
  const at::Tensor keys = keep(block.keys, turned.narrow(1, s_.heads, s_.kv_heads));
  const at::Tensor values = keep(block.values, qkv.narrow(1, s_.heads + s_.kv_heads, s_.kv_heads));
  const at::Tensor queries = by_head(turned.narrow(1, 0, s_.heads));
  const at::Tensor mixed = Mix(queries, keys, values, Bias(block, position, n, first));
  return mixed.transpose(1, 2).reshape({rows, s_.heads * d});
}

at::Tensor PlainDecoder::Mlp(const Block& block, const at::Tensor& x) const {
  const at::Tensor both = block.gate_up(x);
  const int64_t width = s_.intermediate;
  at::Tensor act = s_.gated ? both.narrow(1, 0, width) : both;
  switch (s_.activation) {
    case Activation::kSilu:
      act = at::silu(act);
      break;
    case Activation::kGeluTanh:
      act = at::gelu(act, "tanh");
      break;
    case Activation::kRelu:
      act = at::relu(act);
      break;
  }
  return block.down(s_.gated ? act * both.narrow(1, width, width) : act);
}

void PlainDecoder::Run(const at::Tensor& tokens, int64_t position) {
  at::Tensor h = Embed(tokens, position);
  for (const Block& block : blocks_) {
    const at::Tensor mixed = Attend(block, Input(block.attn_norm, h), position);
    h = Joined(block.attn_norm, block.attn_post_norm, h, block.o(mixed));
    h = Joined(block.mlp_norm, block.mlp_post_norm, h, Mlp(block, Input(block.mlp_norm, h)));
  }
  at::Tensor last = Norm(sequences_ > 1 ? h : h.narrow(0, h.size(0) - 1, 1), final_norm_);
  if (head_proj_.weight.defined()) last = head_proj_(last);
  logits_ = head_(last.to(head_.weight.scalar_type()));
  SoftCap(s_.logit_cap, logits_);
  token_.copy_(at::argmax(logits_, -1));
}

}  // namespace shiftadd::reference
