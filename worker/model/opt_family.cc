#include "worker/model/opt_family.h"

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/hugging_face_config.h"

namespace shiftadd {
namespace {

using nlohmann::json;

constexpr int64_t kPositionOffset = 2;

absl::StatusOr<ArchitectureSpec> FromConfig(const json& object, const std::string& file) {
  const HuggingFaceConfig config(object, file);
  SA_RETURN_IF_ERROR(config.Only("activation_function", "relu"));
  SA_RETURN_IF_ERROR(config.Only("layer_norm_elementwise_affine", true));
  SA_RETURN_IF_ERROR(config.Only("output_projection", true));  // the head, which every model has
  ArchitectureSpec s;
  s.family = "opt";
  SA_RETURN_IF_ERROR(config.Int("vocab_size", -1, &s.vocab));
  SA_RETURN_IF_ERROR(config.Int("hidden_size", -1, &s.hidden));
  SA_RETURN_IF_ERROR(config.Int("ffn_dim", -1, &s.intermediate));
  SA_RETURN_IF_ERROR(config.Int("num_hidden_layers", -1, &s.blocks));
  SA_RETURN_IF_ERROR(config.Count("num_attention_heads", -1, &s.heads));
  if (s.hidden % s.heads != 0) {
    return config.Fault("num_attention_heads",
                        absl::StrCat("a divisor of hidden_size, ", s.hidden));
  }
  s.kv_heads = s.heads;
  s.head_dim = s.hidden / s.heads;
  SA_RETURN_IF_ERROR(config.Int("max_position_embeddings", 2048, &s.context));
  s.norm = NormKind::kLayer;
  s.activation = Activation::kRelu;
  s.gated = false;
  s.position = PositionKind::kLearned;
  s.position_offset = kPositionOffset;
  bool before = true, no_final = false, bias = true;
  SA_RETURN_IF_ERROR(config.Bool("do_layer_norm_before", true, &before));
  SA_RETURN_IF_ERROR(config.Bool("_remove_final_layer_norm", false, &no_final));
  SA_RETURN_IF_ERROR(config.Bool("enable_bias", true, &bias));
  s.norm_place = before ? NormPlace::kBefore : NormPlace::kAfter;
  s.has_final_norm = before && !no_final;
  s.qkv_bias = s.o_bias = s.mlp_bias = bias;
  int64_t width = 0;
  SA_RETURN_IF_ERROR(config.Int("word_embed_proj_dim", s.hidden, &width));
  if (width != s.hidden) s.embed_width = width;
  SA_RETURN_IF_ERROR(config.Bool("tie_word_embeddings", true, &s.tied_embeddings));
  SA_RETURN_IF_ERROR(config.SpecialTokens(&s));
  SA_RETURN_IF_ERROR(config.RefuseUnread());
  return s;
}

json ToConfig(const ArchitectureSpec& s) {
  return {{"architectures", {"OPTForCausalLM"}},
          {"model_type", "opt"},
          {"vocab_size", s.vocab},
          {"hidden_size", s.hidden},
          {"ffn_dim", s.intermediate},
          {"num_hidden_layers", s.blocks},
          {"num_attention_heads", s.heads},
          {"max_position_embeddings", s.context},
          {"activation_function", "relu"},
          {"do_layer_norm_before", s.norm_place == NormPlace::kBefore},
          {"_remove_final_layer_norm", s.norm_place == NormPlace::kBefore && !s.has_final_norm},
          {"enable_bias", s.qkv_bias},
          {"word_embed_proj_dim", s.embed_dim()},
          {"tie_word_embeddings", s.tied_embeddings},
          {"bos_token_id", s.bos_token < 0 ? json(nullptr) : json(s.bos_token)},
          {"eos_token_id", s.eos_tokens.empty()       ? json(nullptr)
                           : s.eos_tokens.size() == 1 ? json(s.eos_tokens.front())
                                                      : json(s.eos_tokens)}};
}

constexpr const char* kLinearNames[] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"};

std::vector<FamilyTensor> Tensors(const ArchitectureSpec& s) {
  std::vector<FamilyTensor> out;
  const std::string root = "model.decoder.";
  const auto add = [&](const std::string& canonical, const std::string& name,
                       std::vector<int64_t> shape) {
    out.push_back({canonical, name, "", std::move(shape)});
  };
  const auto norm = [&](const std::string& canonical, const std::string& name) {
    add(canonical, name + ".weight", {s.hidden});
    add(canonical + ".bias", name + ".bias", {s.hidden});
  };
  add("embed", root + "embed_tokens.weight", {s.vocab, s.embed_dim()});
  add("positions", root + "embed_positions.weight", {s.context + s.position_offset, s.hidden});
  if (s.embed_width > 0) {
    add("embed_proj", root + "project_in.weight", {s.hidden, s.embed_width});
    add("head_proj", root + "project_out.weight", {s.embed_width, s.hidden});
  }
  for (int64_t b = 0; b < s.blocks; ++b) {
    const std::string block = absl::StrCat("blocks.", b, "."),
                      hf = absl::StrCat(root, "layers.", b, ".");
    norm(block + "attn_norm", hf + "self_attn_layer_norm");
    norm(block + "mlp_norm", hf + "final_layer_norm");
    const char* const* name = kLinearNames;
    for (const LinearLayer& layer : BlockLayers(s, b)) {
      add(layer.name, absl::StrCat(hf, *name, ".weight"), {layer.rows, layer.cols});
      if (HasBias(s, layer.input)) {
        add(layer.name + ".bias", absl::StrCat(hf, *name, ".bias"), {layer.rows});
      }
      ++name;
    }
  }
  if (s.has_final_norm) norm("final_norm", root + "final_layer_norm");
  if (!s.tied_embeddings) add("head", "lm_head.weight", {s.vocab, s.embed_dim()});
  return out;
}

bool Ignored(const ArchitectureSpec& s, const std::string& name) {
  return s.tied_embeddings && name == "lm_head.weight";
}

}  // namespace

Family OptFamily() {
  return {"opt",     {"OPTForCausalLM"}, {},       &FromConfig, nullptr,
          &ToConfig, &Tensors,           &Ignored, "model."};
}

}  // namespace shiftadd
