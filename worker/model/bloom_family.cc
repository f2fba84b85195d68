#include "worker/model/bloom_family.h"

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/decoder_family.h"

namespace shiftadd {
namespace {

using nlohmann::json;

void SetBloom(ArchitectureSpec* s) {
  s->family = "bloom";
  s->norm = NormKind::kLayer;
  s->activation = Activation::kGeluTanh;
  s->gated = false;
  s->position = PositionKind::kAlibi;
  s->embed_norm = true;
  s->kv_heads = s->heads;
  s->head_dim = s->hidden / s->heads;
  s->qkv_bias = s->o_bias = s->mlp_bias = true;
}

// A size under its old or its new name.
absl::Status Size(const HuggingFaceConfig& config, const char* old, const char* now, int64_t* out) {
  return config.Count(config.Find(old) != nullptr ? old : now, -1, out);
}

absl::StatusOr<ArchitectureSpec> FromConfig(const json& object, const std::string& file) {
  const HuggingFaceConfig config(object, file);
  SA_RETURN_IF_ERROR(config.Only("apply_residual_connection_post_layernorm", false));
  ArchitectureSpec s;
  SA_RETURN_IF_ERROR(config.Int("vocab_size", -1, &s.vocab));
  SA_RETURN_IF_ERROR(Size(config, "n_embed", "hidden_size", &s.hidden));
  SA_RETURN_IF_ERROR(Size(config, "n_layer", "num_hidden_layers", &s.blocks));
  SA_RETURN_IF_ERROR(Size(config, "n_head", "num_attention_heads", &s.heads));
  for (const char* other : {"hidden_size", "num_hidden_layers", "num_attention_heads"}) {
    config.Find(other);  // the same again
  }
  if (s.hidden % s.heads != 0) {
    return config.Fault("n_head", absl::StrCat("a divisor of the hidden size, ", s.hidden));
  }
  SetBloom(&s);
  SA_RETURN_IF_ERROR(config.Int("n_inner", 4 * s.hidden, &s.intermediate));
  // Positions have no end; this is what it was trained on.
  SA_RETURN_IF_ERROR(config.Int("seq_length", 2048, &s.context));
  SA_RETURN_IF_ERROR(config.Real("layer_norm_epsilon", 1e-5, &s.norm_eps));
  SA_RETURN_IF_ERROR(config.Bool("tie_word_embeddings", true, &s.tied_embeddings));
  SA_RETURN_IF_ERROR(config.SpecialTokens(&s));
  SA_RETURN_IF_ERROR(config.RefuseUnread());
  return s;
}

json ToConfig(const ArchitectureSpec& s) {
  json config = {{"architectures", {"BloomForCausalLM"}},
                 {"model_type", "bloom"},
                 {"vocab_size", s.vocab},
                 {"hidden_size", s.hidden},
                 {"n_layer", s.blocks},
                 {"n_head", s.heads},
                 {"seq_length", s.context},
                 {"layer_norm_epsilon", s.norm_eps},
                 {"apply_residual_connection_post_layernorm", false},
                 {"tie_word_embeddings", s.tied_embeddings},
                 {"bos_token_id", s.bos_token < 0 ? json(nullptr) : json(s.bos_token)},
                 {"eos_token_id", s.eos_tokens.empty()       ? json(nullptr)
                                  : s.eos_tokens.size() == 1 ? json(s.eos_tokens.front())
                                                             : json(s.eos_tokens)}};
  if (s.intermediate != 4 * s.hidden) config["n_inner"] = s.intermediate;
  return config;
}

absl::StatusOr<ArchitectureSpec> FromGguf(const TensorSource& source, const std::string& file) {
  const GgufMetadata meta(source.metadata(), file);
  ArchitectureSpec s;
  SA_ASSIGN_OR_RETURN(s.vocab, GgufVocabSize(source, meta, "bloom"));
  SA_ASSIGN_OR_RETURN(s.hidden, meta.Int("bloom.embedding_length", std::nullopt));
  SA_ASSIGN_OR_RETURN(s.blocks, meta.Int("bloom.block_count", std::nullopt));
  SA_ASSIGN_OR_RETURN(s.heads, meta.Int("bloom.attention.head_count", std::nullopt));
  if (s.heads < 1 || s.hidden % s.heads != 0) {
    return meta.Fault("bloom.attention.head_count",
                      absl::StrCat("a divisor of embedding_length, ", s.hidden));
  }
  SetBloom(&s);
  SA_ASSIGN_OR_RETURN(s.intermediate, meta.Int("bloom.feed_forward_length", 4 * s.hidden));
  SA_ASSIGN_OR_RETURN(s.context, meta.Int("bloom.context_length", 2048));
  SA_ASSIGN_OR_RETURN(s.norm_eps, meta.Real("bloom.attention.layer_norm_epsilon", 1e-5));
  SA_ASSIGN_OR_RETURN(const int64_t kv_heads, meta.Int("bloom.attention.head_count_kv", s.heads));
  if (kv_heads != s.heads) {
    return meta.Fault("bloom.attention.head_count_kv", absl::StrCat("head_count, ", s.heads));
  }
  s.tied_embeddings = !HasTensor(source, "output.weight");
  SA_RETURN_IF_ERROR(ReadGgufTokens(meta, &s));
  SA_RETURN_IF_ERROR(meta.RefuseUnread("bloom."));
  return s;
}

struct PartNames {
  const char* hugging_face;
  const char* gguf;
};
constexpr PartNames kLinearNames[] = {{"self_attention.query_key_value", "attn_qkv"},
                                      {"self_attention.query_key_value", "attn_qkv"},
                                      {"self_attention.query_key_value", "attn_qkv"},
                                      {"self_attention.dense", "attn_output"},
                                      {"mlp.dense_h_to_4h", "ffn_up"},
                                      {"mlp.dense_4h_to_h", "ffn_down"}};

std::vector<FamilyTensor> Tensors(const ArchitectureSpec& s) {
  std::vector<FamilyTensor> out;
  const std::string root = "transformer.";
  const auto norm = [&](const std::string& canonical, const std::string& hf,
                        const std::string& gguf) {
    out.push_back({canonical, hf + ".weight", gguf + ".weight", {s.hidden}});
    out.push_back({canonical + ".bias", hf + ".bias", gguf + ".bias", {s.hidden}});
  };
  out.push_back(
      {"embed", root + "word_embeddings.weight", "token_embd.weight", {s.vocab, s.hidden}});
  norm("embed_norm", root + "word_embeddings_layernorm", "token_embd_norm");
  for (int64_t b = 0; b < s.blocks; ++b) {
    const std::string block = absl::StrCat("blocks.", b, "."),
                      hf = absl::StrCat(root, "h.", b, ".");
    const std::string gguf = absl::StrCat("blk.", b, ".");
    norm(block + "attn_norm", hf + "input_layernorm", gguf + "attn_norm");
    norm(block + "mlp_norm", hf + "post_attention_layernorm", gguf + "ffn_norm");
    const std::vector<LinearLayer> layers = BlockLayers(s, b);
    for (size_t i = 0; i < layers.size(); ++i) {
      const auto add = [&](const char* suffix, const char* part, std::vector<int64_t> shape) {
        FamilyTensor t{layers[i].name + suffix,
                       absl::StrCat(hf, kLinearNames[i].hugging_face, part),
                       absl::StrCat(gguf, kLinearNames[i].gguf, part), std::move(shape)};
        if (layers[i].input == BlockInput::kAttn) {
          t.fused_parts = 3;
          t.fused_part = static_cast<int64_t>(i);
          t.hugging_face_fused_heads = s.heads;
        }
        out.push_back(std::move(t));
      };
      add("", ".weight", {layers[i].rows, layers[i].cols});
      add(".bias", ".bias", {layers[i].rows});
    }
  }
  norm("final_norm", root + "ln_f", "output_norm");
  if (!s.tied_embeddings) {
    out.push_back({"head", "lm_head.weight", "output.weight", {s.vocab, s.hidden}});
  }
  return out;
}

bool Ignored(const ArchitectureSpec& s, const std::string& name) {
  return s.tied_embeddings && name == "lm_head.weight";
}

}  // namespace

Family BloomFamily() {
  return {"bloom",  {"BloomForCausalLM"}, {"bloom"}, &FromConfig, &FromGguf, &ToConfig, &Tensors,
          &Ignored, "transformer."};
}

}  // namespace shiftadd
