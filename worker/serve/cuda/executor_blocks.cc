// The launches of a step: from tokens to logits.
//
// Where a model's norms and activation are those that kernels::CudaActivations can make on the way
// to digits (LLaMA, Mistral, Qwen), they are (FusedBlocks). Everything else has kernels of its own
// between the products (GeneralBlocks).
#include <algorithm>

#include "services/base/status_macros.h"
#include "worker/serve/cuda/executor.h"

namespace shiftadd::cuda {

absl::Status Executor::AddBias(const LinearGroup& group, int64_t rows, float* y) const {
  if (group.bias() == nullptr) return absl::OkStatus();
  return ToStatus(LaunchAddBias(y, group.rows(), group.bias(), rows, group.rows(), stream_.get()),
                  "launching a bias");
}

absl::Status Executor::Attention(int64_t b, const Plan& plan) {
  const bool early = context_.multiply.programmatic;
  const DeviceBlock& block = weights_.blocks[b];
  const PagedRows rows = plan.staging->rows();
  RopeParams rope;
  rope.shape = shape_;
  rope.block = b;
  rope.qkv = qkv_.as<float>();
  rope.bias = block.qkv.bias();
  rope.q_norm = block.q_norm.as<float>();
  rope.k_norm = block.k_norm.as<float>();
  rope.eps = static_cast<float>(spec_.norm_eps);
  rope.cos_sin = cos_sin_[spec_.rope_local_theta > 0 && spec_.IsLocal(b)].as<float2>();
  rope.rows = rows;
  SA_RETURN_IF_ERROR(ToStatus(LaunchRope(rope, plan.rows, early, stream_.get()), "launching RoPE"));
  AttentionParams p = {shape_, b, qkv_.as<float>(), attended_.as<float>(), rows, {}};
  p.rules.scale = static_cast<float>(spec_.score_scale());
  p.rules.cap = static_cast<float>(spec_.attention_cap);
  p.rules.slopes = slopes_.as<float>();
  p.rules.window = static_cast<int32_t>(spec_.WindowOf(b));
  const char kWhat[] = "launching attention";
  if (plan.decode) {
    return ToStatus(LaunchDecodeAttention(p, splits_, nullptr, plan.rows, early, stream_.get()),
                    kWhat);
  }
  const Staging::Arrays& arrays = plan.staging->device();
  for (int64_t begin = 0; begin < plan.decode_rows; begin += kDecodeRows) {
    const int64_t count = std::min<int64_t>(kDecodeRows, plan.decode_rows - begin);
    SA_RETURN_IF_ERROR(ToStatus(
        LaunchDecodeAttention(p, splits_, arrays.decode_rows + begin, count, early, stream_.get()),
        kWhat));
  }
  return ToStatus(LaunchPromptAttention(p, arrays.tiles, plan.tiles, early, stream_.get()), kWhat);
}

// From tokens to the residual stream in hidden_[0].
absl::Status Executor::Embed(const Plan& plan) {
  const int64_t m = plan.rows;
  const bool narrow = spec_.embed_width > 0;
  const auto finish = [&](float* x, float scale, const Buffer* table, int64_t width) {
    EmbedParams p;
    p.x = x;
    p.scale = scale;
    p.table = table == nullptr ? nullptr : table->as<float>();
    p.positions = plan.staging->rows().positions;
    p.offset = spec_.position_offset;
    p.width = width;
    return ToStatus(LaunchFinishEmbedding(p, m, stream_.get()), "launching the embedding");
  };
  float* const hidden = hidden_[0].as<float>();
  float* const gathered = narrow ? narrow_.as<float>() : hidden;
  const DeviceLinear& embed = weights_.embed ? *weights_.embed : weights_.head.linear(0);
  SA_RETURN_IF_ERROR(embed.Gather(plan.staging->device().tokens, m, gathered, stream_.get()));
  const auto scale = static_cast<float>(spec_.embed_scale);
  if (scale != 1) SA_RETURN_IF_ERROR(finish(gathered, scale, nullptr, spec_.embed_dim()));
  if (narrow) {
    const GroupInput in{GroupInput::Kind::kPlain, gathered, spec_.embed_width};
    SA_RETURN_IF_ERROR(weights_.embed_proj.Run(in, m, hidden, context_));
  }
  if (spec_.position == PositionKind::kLearned) {
    SA_RETURN_IF_ERROR(finish(hidden, 1, &weights_.positions, spec_.hidden));
  }
  if (!spec_.embed_norm) return absl::OkStatus();
  JoinParams p;
  p.x = p.sum = hidden;
  p.norm = weights_.embed_norm.view();
  p.after = true;
  p.eps = static_cast<float>(spec_.norm_eps);
  p.width = spec_.hidden;
  return ToStatus(LaunchJoin(p, m, stream_.get()), "launching a norm");
}

absl::Status Executor::Head(GroupInput in, int64_t rows) {
  float* const logits = logits_.as<float>();
  if (spec_.embed_width > 0) {
    SA_RETURN_IF_ERROR(weights_.head_proj.Run(in, rows, narrow_.as<float>(), context_));
    in = GroupInput{GroupInput::Kind::kPlain, narrow_.as<float>(), spec_.embed_width};
  }
  SA_RETURN_IF_ERROR(weights_.head.Run(in, rows, logits, context_));
  if (spec_.logit_cap == 0) return absl::OkStatus();
  return ToStatus(
      LaunchSoftCap(logits, static_cast<float>(spec_.logit_cap), rows * spec_.vocab, stream_.get()),
      "launching a soft cap");
}

absl::StatusOr<const float*> Executor::Join(const DeviceNorm* norm, const DeviceNorm* post,
                                            const DeviceNorm& next, int64_t rows) {
  JoinParams p;
  p.x = p.sum = hidden_[0].as<float>();
  p.eps = static_cast<float>(spec_.norm_eps);
  p.width = spec_.hidden;
  const bool after = spec_.norm_place == NormPlace::kAfter;
  if (norm != nullptr) {
    p.delta = delta_.as<float>();
    if (spec_.norm_place == NormPlace::kAround) p.post = post->view();
  } else if (after) {
    return p.x;  // the embedding as it is
  }
  p.after = after;
  p.norm = after ? norm->view() : next.view();
  if (!after && p.norm.weight != nullptr) p.out = scratch_.as<float>();
  SA_RETURN_IF_ERROR(ToStatus(LaunchJoin(p, rows, stream_.get()), "launching a norm"));
  return p.out == nullptr ? p.x : p.out;
}

absl::Status Executor::Activate(const LinearGroup& gate_up, int64_t rows) {
  const float* gate = gate_up_.as<float>();
  const float* up = spec_.gated ? gate + spec_.intermediate : nullptr;
  const ActKind kind = spec_.activation == Activation::kSilu       ? ActKind::kSilu
                       : spec_.activation == Activation::kGeluTanh ? ActKind::kGeluTanh
                                                                   : ActKind::kRelu;
  return ToStatus(LaunchActivate(kind, gate, up, gate_up.rows(), scratch_.as<float>(), rows,
                                 spec_.intermediate, stream_.get()),
                  "launching an activation");
}

absl::Status Executor::GeneralBlocks(const Plan& plan) {
  const int64_t m = plan.rows;
  const auto plain = [](const float* x, int64_t width) {
    return GroupInput{GroupInput::Kind::kPlain, x, width};
  };
  const DeviceNorm* norm = nullptr;  // of the sublayer before
  const DeviceNorm* post = nullptr;
  for (int64_t b = 0; b < spec_.blocks; ++b) {
    const DeviceBlock& block = weights_.blocks[b];
    SA_ASSIGN_OR_RETURN(const float* x, Join(norm, post, block.attn_norm, m));
    SA_RETURN_IF_ERROR(block.qkv.Run(plain(x, spec_.hidden), m, qkv_.as<float>(), context_));
    SA_RETURN_IF_ERROR(Attention(b, plan));
    SA_RETURN_IF_ERROR(
        block.o.Run(plain(attended_.as<float>(), spec_.q_rows()), m, delta_.as<float>(), context_));
    SA_RETURN_IF_ERROR(AddBias(block.o, m, delta_.as<float>()));
    SA_ASSIGN_OR_RETURN(x, Join(&block.attn_norm, &block.attn_post_norm, block.mlp_norm, m));
    SA_RETURN_IF_ERROR(
        block.gate_up.Run(plain(x, spec_.hidden), m, gate_up_.as<float>(), context_));
    SA_RETURN_IF_ERROR(AddBias(block.gate_up, m, gate_up_.as<float>()));
    SA_RETURN_IF_ERROR(Activate(block.gate_up, m));
    SA_RETURN_IF_ERROR(block.down.Run(plain(scratch_.as<float>(), spec_.intermediate), m,
                                      delta_.as<float>(), context_));
    SA_RETURN_IF_ERROR(AddBias(block.down, m, delta_.as<float>()));
    norm = &block.mlp_norm;
    post = &block.mlp_post_norm;
  }
  SA_ASSIGN_OR_RETURN(normed_, Join(norm, post, weights_.final_norm, m));
  if (spec_.norm_place == NormPlace::kAfter && spec_.has_final_norm) {
    JoinParams p;
    p.x = p.sum = hidden_[0].as<float>();
    p.norm = weights_.final_norm.view();
    p.after = true;
    p.eps = static_cast<float>(spec_.norm_eps);
    p.width = spec_.hidden;
    SA_RETURN_IF_ERROR(ToStatus(LaunchJoin(p, m, stream_.get()), "launching a norm"));
  }
  return plan.decode ? Head(plain(normed_, spec_.hidden), m) : absl::OkStatus();
}

absl::Status Executor::FusedBlocks(const Plan& plan) {
  const int64_t m = plan.rows;
  // RMSNorm of the residual stream, to which what the layers before made is added on the way.
  const auto norm = [&](bool add, const DeviceNorm& of) {
    GroupInput in{GroupInput::Kind::kNorm, hidden_[current_].as<float>(), spec_.hidden};
    in.weight = of.weight.as<float>();
    in.eps = static_cast<float>(spec_.norm_eps);
    if (add) {
      current_ = 1 - current_;
      in.add = delta_.as<float>();
      in.sum = hidden_[current_].as<float>();
    }
    return in;
  };
  for (int64_t b = 0; b < spec_.blocks; ++b) {
    const DeviceBlock& block = weights_.blocks[b];
    SA_RETURN_IF_ERROR(block.qkv.Run(norm(b > 0, block.attn_norm), m, qkv_.as<float>(), context_));
    SA_RETURN_IF_ERROR(Attention(b, plan));
    const GroupInput attended{GroupInput::Kind::kPlain, attended_.as<float>(), spec_.q_rows()};
    SA_RETURN_IF_ERROR(block.o.Run(attended, m, delta_.as<float>(), context_));
    SA_RETURN_IF_ERROR(AddBias(block.o, m, delta_.as<float>()));
    SA_RETURN_IF_ERROR(
        block.gate_up.Run(norm(true, block.mlp_norm), m, gate_up_.as<float>(), context_));
    SA_RETURN_IF_ERROR(AddBias(block.gate_up, m, gate_up_.as<float>()));
    GroupInput gated{GroupInput::Kind::kSiluMul, gate_up_.as<float>(), 2 * spec_.intermediate};
    gated.up = gate_up_.as<float>() + spec_.intermediate;
    SA_RETURN_IF_ERROR(block.down.Run(gated, m, delta_.as<float>(), context_));
    SA_RETURN_IF_ERROR(AddBias(block.down, m, delta_.as<float>()));
  }
  return plan.decode ? Head(norm(true, weights_.final_norm), m) : absl::OkStatus();
}

// To the residual stream in hidden_[current_] + delta_ or (unless fused_) what the head reads at
// normed_; for a decode step, logits.
absl::Status Executor::Blocks(const Plan& plan) {
  current_ = 0;
  SA_RETURN_IF_ERROR(Embed(plan));
  SA_RETURN_IF_ERROR(fused_ ? FusedBlocks(plan) : GeneralBlocks(plan));
  return plan.sample && plan.decode ? Sample(*plan.staging, 0, plan.rows) : absl::OkStatus();
}

}  // namespace shiftadd::cuda
