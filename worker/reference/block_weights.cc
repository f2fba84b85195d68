#include "worker/reference/block_weights.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::reference {

void BlockWeights::Pack(int64_t tokens) {
  for (Linear* linear : {&q, &k, &v, &o, &gate, &up, &down}) {
    if (linear->loaded()) linear->Pack(tokens);
  }
}

absl::StatusOr<NormWeights> ReadNorm(const WeightProvider& weights, const std::string& name,
                                     at::Device device) {
  const ArchitectureSpec& s = weights.spec();
  NormWeights norm;
  SA_ASSIGN_OR_RETURN(norm.weight, ReadTensor(weights, name, {s.hidden}, device));
  if (s.norm == NormKind::kLayer) {
    SA_ASSIGN_OR_RETURN(norm.bias, ReadTensor(weights, name + ".bias", {s.hidden}, device));
  }
  return norm;
}

absl::StatusOr<std::shared_ptr<BlockWeights>> ReadBlock(const WeightProvider& weights,
                                                        int64_t block, at::Device device,
                                                        at::ScalarType products) {
  const ArchitectureSpec& s = weights.spec();
  const std::string prefix = absl::StrCat("blocks.", block, ".");
  const auto linear = [&](const char* name, int64_t rows, int64_t cols, bool bias) {
    return ReadLinear(weights, prefix + name, rows, cols, bias, device, products);
  };
  auto b = std::make_shared<BlockWeights>();
  SA_ASSIGN_OR_RETURN(b->attn_norm, ReadNorm(weights, prefix + "attn_norm", device));
  SA_ASSIGN_OR_RETURN(b->mlp_norm, ReadNorm(weights, prefix + "mlp_norm", device));
  if (s.norm_place == NormPlace::kAround) {
    SA_ASSIGN_OR_RETURN(b->attn_post_norm, ReadNorm(weights, prefix + "attn_post_norm", device));
    SA_ASSIGN_OR_RETURN(b->mlp_post_norm, ReadNorm(weights, prefix + "mlp_post_norm", device));
  }
  b->form.local = s.IsLocal(block);
  b->form.window = s.WindowOf(block);
  if (s.qk_norm) {
    SA_ASSIGN_OR_RETURN(b->form.q_norm,
                        ReadTensor(weights, prefix + "attn.q_norm", {s.head_dim}, device));
    SA_ASSIGN_OR_RETURN(b->form.k_norm,
                        ReadTensor(weights, prefix + "attn.k_norm", {s.head_dim}, device));
  }
  SA_ASSIGN_OR_RETURN(b->q, linear("attn.q", s.q_rows(), s.hidden, s.qkv_bias));
  SA_ASSIGN_OR_RETURN(b->k, linear("attn.k", s.kv_rows(), s.hidden, s.qkv_bias));
  SA_ASSIGN_OR_RETURN(b->v, linear("attn.v", s.kv_rows(), s.hidden, s.qkv_bias));
  SA_ASSIGN_OR_RETURN(b->o, linear("attn.o", s.hidden, s.q_rows(), s.o_bias));
  if (s.gated) {
    SA_ASSIGN_OR_RETURN(b->gate, linear("mlp.gate", s.intermediate, s.hidden, s.mlp_bias));
  }
  SA_ASSIGN_OR_RETURN(b->up, linear("mlp.up", s.intermediate, s.hidden, s.mlp_bias));
  SA_ASSIGN_OR_RETURN(b->down, linear("mlp.down", s.hidden, s.intermediate, s.mlp_bias));
  return b;
}

absl::StatusOr<const BlockWeights*> BlockCache::Get(int64_t block) {
  const auto found =
      std::find_if(blocks_.begin(), blocks_.end(), [&](const auto& b) { return b.first == block; });
  if (found != blocks_.end()) {
    blocks_.splice(blocks_.begin(), blocks_, found);
    return blocks_.front().second.get();
  }
  while (capacity_ > 0 && blocks_.size() >= capacity_) blocks_.pop_back();
  SA_ASSIGN_OR_RETURN(std::shared_ptr<BlockWeights> read,
                      ReadBlock(*weights_, block, device_, products_));
  blocks_.emplace_front(block, std::move(read));
  return blocks_.front().second.get();
}

}  // namespace shiftadd::reference
