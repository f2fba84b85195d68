#include "worker/model/decoder_family.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

using nlohmann::json;

// Names of the parts of a block: canonical, Hugging Face, GGUF.
struct PartNames {
  const char* kind;
  const char* hugging_face;
  const char* gguf;
};
constexpr PartNames kLinearNames[] = {
    {"q", "self_attn.q_proj", "attn_q"},   {"k", "self_attn.k_proj", "attn_k"},
    {"v", "self_attn.v_proj", "attn_v"},   {"o", "self_attn.o_proj", "attn_output"},
    {"gate", "mlp.gate_proj", "ffn_gate"}, {"up", "mlp.up_proj", "ffn_up"},
    {"down", "mlp.down_proj", "ffn_down"},
};

class Tensors {
 public:
  Tensors(const ArchitectureSpec& spec, const DecoderNames& names) : s_(spec), names_(names) {}

  std::vector<FamilyTensor> All() {
    out_.push_back(
        {"embed", "model.embed_tokens.weight", "token_embd.weight", {s_.vocab, s_.hidden}});
    for (int64_t b = 0; b < s_.blocks; ++b) Block(b);
    AddNorm("final_norm", "model.norm.weight", "output_norm.weight", s_.hidden);
    if (!s_.tied_embeddings) {
      out_.push_back({"head", "lm_head.weight", "output.weight", {s_.vocab, s_.hidden}});
    }
    return std::move(out_);
  }

 private:
  void AddNorm(const std::string& canonical, const std::string& hugging_face,
               const std::string& gguf, int64_t size) {
    FamilyTensor t{canonical, hugging_face, gguf, {size}};
    t.hugging_face_plus = names_.hugging_face_norm;
    out_.push_back(std::move(t));
  }

  void Block(int64_t block) {
    const std::string canonical = absl::StrCat("blocks.", block, ".");
    const std::string hf = absl::StrCat("model.layers.", block, ".");
    const std::string gguf = absl::StrCat("blk.", block, ".");
    const auto norm = [&](const char* name, const char* in_hf, const char* in_gguf, int64_t size) {
      AddNorm(canonical + name, absl::StrCat(hf, in_hf, ".weight"),
              absl::StrCat(gguf, in_gguf, ".weight"), size);
    };
    const bool around = s_.norm_place == NormPlace::kAround;
    norm("attn_norm", "input_layernorm", "attn_norm", s_.hidden);
    norm("mlp_norm", around ? "pre_feedforward_layernorm" : "post_attention_layernorm", "ffn_norm",
         s_.hidden);
    if (around) {
      norm("attn_post_norm", "post_attention_layernorm", "post_attention_norm", s_.hidden);
      norm("mlp_post_norm", "post_feedforward_layernorm", "post_ffw_norm", s_.hidden);
    }
    if (s_.qk_norm) {
      norm("attn.q_norm", "self_attn.q_norm", "attn_q_norm", s_.head_dim);
      norm("attn.k_norm", "self_attn.k_norm", "attn_k_norm", s_.head_dim);
    }
    const std::vector<LinearLayer> layers = BlockLayers(s_, block);
    for (size_t i = 0; i < layers.size(); ++i) {
      const LinearLayer& layer = layers[i];
      const PartNames& names = kLinearNames[i];
      int64_t interleaved = 0;
      if (names_.interleaved && layer.kind == "q") interleaved = s_.heads;
      if (names_.interleaved && layer.kind == "k") interleaved = s_.kv_heads;
      const auto add = [&](const char* suffix, const char* part, std::vector<int64_t> shape) {
        FamilyTensor t{layer.name + suffix, absl::StrCat(hf, names.hugging_face, part),
                       absl::StrCat(gguf, names.gguf, part), std::move(shape)};
        t.interleaved_heads = interleaved;
        out_.push_back(std::move(t));
      };
      add("", ".weight", {layer.rows, layer.cols});
      if (HasBias(s_, layer.input)) add(".bias", ".bias", {layer.rows});
    }
  }

  const ArchitectureSpec& s_;
  const DecoderNames names_;
  std::vector<FamilyTensor> out_;
};

absl::Status ReadGgufHeads(const GgufMetadata& meta, const std::string& prefix,
                           const DecoderDefaults& defaults, ArchitectureSpec* s) {
  SA_ASSIGN_OR_RETURN(s->heads, meta.Int(prefix + "attention.head_count", std::nullopt));
  if (s->heads < 1) return meta.Fault(prefix + "attention.head_count", "at least 1");
  SA_ASSIGN_OR_RETURN(s->kv_heads, meta.Int(prefix + "attention.head_count_kv", s->heads));
  if (s->kv_heads < 1) return meta.Fault(prefix + "attention.head_count_kv", "at least 1");
  const int64_t dim = defaults.head_dim > 0 ? defaults.head_dim : s->hidden / s->heads;
  SA_ASSIGN_OR_RETURN(s->head_dim, meta.Int(prefix + "attention.key_length", dim));
  SA_ASSIGN_OR_RETURN(const int64_t rotated,
                      meta.Int(prefix + "rope.dimension_count", s->head_dim));
  SA_ASSIGN_OR_RETURN(const int64_t value_dim,
                      meta.Int(prefix + "attention.value_length", s->head_dim));
  if (rotated != s->head_dim || value_dim != s->head_dim) {
    return absl::UnimplementedError(absl::StrCat(
        meta.file(), ": heads have ", s->head_dim, " key elements, ", value_dim,
        " value elements and ", rotated, " rotated ones: only equal numbers are supported"));
  }
  if (s->head_dim < 2 || s->head_dim > 1 << 16) {
    return meta.Fault(prefix + "attention.key_length", "a head width from 2 to 65536");
  }
  return absl::OkStatus();
}

absl::Status ReadGgufRope(const GgufMetadata& meta, const std::string& prefix,
                          const DecoderDefaults& defaults, ArchitectureSpec* s) {
  SA_ASSIGN_OR_RETURN(s->rope_theta, meta.Real(prefix + "rope.freq_base", defaults.rope_theta));
  const std::string kind_key = prefix + "rope.scaling.type";
  SA_ASSIGN_OR_RETURN(const std::string kind, meta.String(kind_key, "none"));
  SA_ASSIGN_OR_RETURN(const double old_factor, meta.Real(prefix + "rope.scale_linear", 1.0));
  SA_ASSIGN_OR_RETURN(const double factor, meta.Real(prefix + "rope.scaling.factor", old_factor));
  if (kind == "linear" || (meta.Find(kind_key) == nullptr && factor != 1.0)) {
    s->rope_scaling = factor == 1.0 ? RopeScaling::kNone : RopeScaling::kLinear;
    s->rope_factor = factor;
    return absl::OkStatus();
  }
  if (kind == "none") return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(meta.file(), ": metadata '", kind_key, "' is '",
                                               kind,
                                               "': not supported, supported are: none, "
                                               "linear, and factors in rope_freqs.weight"));
}

}  // namespace

absl::StatusOr<ArchitectureSpec> DecoderFromConfig(const HuggingFaceConfig& config,
                                                   const DecoderDefaults& defaults) {
  ArchitectureSpec s;
  s.family = defaults.family;
  SA_RETURN_IF_ERROR(config.Int("vocab_size", -1, &s.vocab));
  SA_RETURN_IF_ERROR(config.Int("hidden_size", -1, &s.hidden));
  SA_RETURN_IF_ERROR(config.Int("intermediate_size", -1, &s.intermediate));
  SA_RETURN_IF_ERROR(config.Int("num_hidden_layers", -1, &s.blocks));
  if (s.blocks < 1 || s.blocks > 1024) return config.Fault("num_hidden_layers", "1 to 1024");
  SA_RETURN_IF_ERROR(config.Count("num_attention_heads", -1, &s.heads));
  SA_RETURN_IF_ERROR(config.Count("num_key_value_heads", s.heads, &s.kv_heads));
  if (config.Find("head_dim") == nullptr && defaults.head_dim == 0 && s.hidden % s.heads != 0) {
    return config.Fault("head_dim",
                        "a value, for hidden_size is not a multiple of "
                        "num_attention_heads");
  }
  SA_RETURN_IF_ERROR(config.Int(
      "head_dim", defaults.head_dim > 0 ? defaults.head_dim : s.hidden / s.heads, &s.head_dim));
  SA_RETURN_IF_ERROR(config.Int("max_position_embeddings", defaults.context, &s.context));
  SA_RETURN_IF_ERROR(config.Real("rms_norm_eps", defaults.norm_eps, &s.norm_eps));
  SA_RETURN_IF_ERROR(ReadRope(config, defaults.rope_theta, &s));
  SA_RETURN_IF_ERROR(
      config.Bool("tie_word_embeddings", defaults.tied_embeddings, &s.tied_embeddings));
  SA_RETURN_IF_ERROR(config.SpecialTokens(&s));
  return s;
}

json DecoderToConfig(const ArchitectureSpec& s, const std::string& architecture,
                     const std::string& model_type) {
  json config = {{"architectures", {architecture}},
                 {"model_type", model_type},
                 {"vocab_size", s.vocab},
                 {"hidden_size", s.hidden},
                 {"intermediate_size", s.intermediate},
                 {"num_hidden_layers", s.blocks},
                 {"num_attention_heads", s.heads},
                 {"num_key_value_heads", s.kv_heads},
                 {"head_dim", s.head_dim},
                 {"max_position_embeddings", s.context},
                 {"rms_norm_eps", s.norm_eps},
                 {"tie_word_embeddings", s.tied_embeddings}};
  WriteRope(s, &config);
  config["bos_token_id"] = s.bos_token < 0 ? json(nullptr) : json(s.bos_token);
  config["eos_token_id"] = s.eos_tokens.empty()       ? json(nullptr)
                           : s.eos_tokens.size() == 1 ? json(s.eos_tokens.front())
                                                      : json(s.eos_tokens);
  return config;
}

bool HasTensor(const TensorSource& source, const std::string& name) {
  return source.tensors().count(name) > 0;
}

absl::StatusOr<int64_t> GgufVocabSize(const TensorSource& source, const GgufMetadata& meta,
                                      const std::string& architecture) {
  const auto it = source.tensors().find("token_embd.weight");
  if (it == source.tensors().end() || it->second.shape.size() != 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        meta.file(), ": tensor 'token_embd.weight' is missing or has not two dimensions"));
  }
  const int64_t rows = it->second.shape[0];
  const std::string key = architecture + ".vocab_size";
  SA_ASSIGN_OR_RETURN(const int64_t said, meta.Int(key, rows));
  if (said != rows) return meta.Fault(key, absl::StrCat(rows, ", the rows of token_embd.weight"));
  return rows;
}

absl::Status ReadGgufTokens(const GgufMetadata& meta, ArchitectureSpec* s) {
  SA_ASSIGN_OR_RETURN(s->bos_token, meta.Int("tokenizer.ggml.bos_token_id", -1));
  // A turn may end with another token than a text: both stop generation.
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    SA_ASSIGN_OR_RETURN(const int64_t eos, meta.Int(key, -1));
    if (eos >= 0 && std::count(s->eos_tokens.begin(), s->eos_tokens.end(), eos) == 0) {
      s->eos_tokens.push_back(eos);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ArchitectureSpec> DecoderFromGguf(const TensorSource& source,
                                                 const GgufMetadata& meta,
                                                 const std::string& architecture,
                                                 const DecoderDefaults& defaults) {
  const std::string prefix = architecture + ".";
  SA_ASSIGN_OR_RETURN(const int64_t experts, meta.Int(prefix + "expert_count", 0));
  if (experts > 0) {
    return absl::UnimplementedError(absl::StrCat(meta.file(), ": metadata '", prefix,
                                                 "expert_count' is ", experts,
                                                 ": mixtures of experts are not supported"));
  }
  ArchitectureSpec s;
  s.family = defaults.family;
  SA_ASSIGN_OR_RETURN(s.vocab, GgufVocabSize(source, meta, architecture));
  SA_ASSIGN_OR_RETURN(s.hidden, meta.Int(prefix + "embedding_length", std::nullopt));
  SA_ASSIGN_OR_RETURN(s.intermediate, meta.Int(prefix + "feed_forward_length", std::nullopt));
  SA_ASSIGN_OR_RETURN(s.blocks, meta.Int(prefix + "block_count", std::nullopt));
  if (s.blocks < 1 || s.blocks > 1024) return meta.Fault(prefix + "block_count", "1 to 1024");
  SA_RETURN_IF_ERROR(ReadGgufHeads(meta, prefix, defaults, &s));
  SA_ASSIGN_OR_RETURN(s.context, meta.Int(prefix + "context_length", std::nullopt));
  SA_ASSIGN_OR_RETURN(s.norm_eps,
                      meta.Real(prefix + "attention.layer_norm_rms_epsilon", defaults.norm_eps));
  SA_RETURN_IF_ERROR(ReadGgufRope(meta, prefix, defaults, &s));
  s.tied_embeddings = !HasTensor(source, "output.weight");
  s.qkv_bias = HasTensor(source, "blk.0.attn_q.bias");
  s.o_bias = HasTensor(source, "blk.0.attn_output.bias");
  s.mlp_bias = HasTensor(source, "blk.0.ffn_gate.bias");
  s.qk_norm = HasTensor(source, "blk.0.attn_q_norm.weight");
  SA_RETURN_IF_ERROR(ReadGgufTokens(meta, &s));
  return s;
}

std::vector<FamilyTensor> DecoderTensors(const ArchitectureSpec& spec, const DecoderNames& names) {
  return Tensors(spec, names).All();
}

bool DecoderIgnored(const ArchitectureSpec& s, const std::string& name) {
  if (s.tied_embeddings && name == "lm_head.weight") return true;
  return name == "rope_freqs.weight" || absl::EndsWith(name, ".rotary_emb.inv_freq");
}

}  // namespace shiftadd
