#include "worker/model/llama_family.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

using nlohmann::json;

// Reads Hugging Face configuration values: null counts as absent.
class Config {
 public:
  Config(const json& config, std::string file) : config_(config), file_(std::move(file)) {}

  const json* Find(const char* name) const {
    const auto it = config_.find(name);
    return it == config_.end() || it->is_null() ? nullptr : &*it;
  }
  absl::Status Fault(const char* name, absl::string_view expected) const {
    const json* value = Find(name);
    return absl::InvalidArgumentError(absl::StrCat(
        file_, ": field '", name, "' is ",
        value == nullptr ? "missing" : value->dump().substr(0, 80), ", expected ", expected));
  }
  // Required if `fallback` is negative.
  absl::Status Int(const char* name, int64_t fallback, int64_t* out) const {
    const json* value = Find(name);
    if (value == nullptr && fallback >= 0) {
      *out = fallback;
      return absl::OkStatus();
    }
    if (value == nullptr || !value->is_number_integer()) return Fault(name, "an integer");
    *out = value->get<int64_t>();
    return absl::OkStatus();
  }
  absl::Status Real(const char* name, double fallback, double* out) const {
    const json* value = Find(name);
    *out = fallback;
    if (value == nullptr) return absl::OkStatus();
    if (!value->is_number()) return Fault(name, "a number");
    *out = value->get<double>();
    return absl::OkStatus();
  }
  absl::Status Bool(const char* name, bool fallback, bool* out) const {
    const json* value = Find(name);
    *out = fallback;
    if (value == nullptr) return absl::OkStatus();
    if (!value->is_boolean()) return Fault(name, "true or false");
    *out = value->get<bool>();
    return absl::OkStatus();
  }
  // An id, a list of ids, or nothing.
  absl::Status Tokens(const char* name, std::vector<int64_t>* out) const {
    const json* value = Find(name);
    if (value == nullptr) return absl::OkStatus();
    const json list = value->is_array() ? *value : json::array({*value});
    for (const json& item : list) {
      if (!item.is_number_integer()) return Fault(name, "a token id or a list of them");
      out->push_back(item.get<int64_t>());
    }
    return absl::OkStatus();
  }
  absl::Status Unsupported(const char* name, absl::string_view expected) const {
    return absl::UnimplementedError(absl::StrCat(file_, ": field '", name, "' is ",
                                                 Find(name)->dump().substr(0, 80),
                                                 ": not supported, supported are: ", expected));
  }
  const std::string& file() const { return file_; }

 private:
  const json& config_;
  std::string file_;
};

absl::Status ReadRope(const Config& config, ArchitectureSpec* s) {
  SA_RETURN_IF_ERROR(config.Real("rope_theta", 10000.0, &s->rope_theta));
  // Newer files keep theta and the scaling together in rope_parameters.
  const char* field =
      config.Find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  const json* value = config.Find(field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_object()) return config.Fault(field, "an object");
  const Config rope(*value, absl::StrCat(config.file(), ": ", field));
  SA_RETURN_IF_ERROR(rope.Real("rope_theta", s->rope_theta, &s->rope_theta));
  const char* kind_field = rope.Find("rope_type") != nullptr ? "rope_type" : "type";
  const json* kind = rope.Find(kind_field);
  if (kind == nullptr || *kind == "default") return absl::OkStatus();
  if (*kind == "linear") {
    s->rope_scaling = RopeScaling::kLinear;
  } else if (*kind == "llama3") {
    s->rope_scaling = RopeScaling::kLlama3;
    SA_RETURN_IF_ERROR(rope.Real("low_freq_factor", 1.0, &s->rope_low_freq_factor));
    SA_RETURN_IF_ERROR(rope.Real("high_freq_factor", 4.0, &s->rope_high_freq_factor));
    SA_RETURN_IF_ERROR(rope.Int("original_max_position_embeddings", -1, &s->rope_original_context));
  } else {
    return rope.Unsupported(kind_field, "default, linear, llama3");
  }
  if (rope.Find("factor") == nullptr) return rope.Fault("factor", "a number");
  return rope.Real("factor", 1.0, &s->rope_factor);
}

absl::Status RefuseWhatIsNotSupported(const Config& config) {
  const json* activation = config.Find("hidden_act");
  if (activation != nullptr && *activation != "silu" && *activation != "swish") {
    return config.Unsupported("hidden_act", "silu");
  }
  if (config.Find("quantization_config") != nullptr) {
    return config.Unsupported("quantization_config", "models with plain weights");
  }
  const json* partial = config.Find("partial_rotary_factor");
  if (partial != nullptr && *partial != 1.0)
    return config.Unsupported("partial_rotary_factor", "1");
  return absl::OkStatus();
}

absl::StatusOr<ArchitectureSpec> FromConfig(const json& object, const std::string& file) {
  const Config config(object, file);
  SA_RETURN_IF_ERROR(RefuseWhatIsNotSupported(config));
  ArchitectureSpec s;
  s.family = "llama";
  SA_RETURN_IF_ERROR(config.Int("vocab_size", -1, &s.vocab));
  SA_RETURN_IF_ERROR(config.Int("hidden_size", -1, &s.hidden));
  SA_RETURN_IF_ERROR(config.Int("intermediate_size", -1, &s.intermediate));
  SA_RETURN_IF_ERROR(config.Int("num_hidden_layers", -1, &s.blocks));
  SA_RETURN_IF_ERROR(config.Int("num_attention_heads", -1, &s.heads));
  if (s.heads < 1) return config.Fault("num_attention_heads", "at least 1");
  SA_RETURN_IF_ERROR(config.Int("num_key_value_heads", s.heads, &s.kv_heads));
  if (s.kv_heads < 1) return config.Fault("num_key_value_heads", "at least 1");
  if (config.Find("head_dim") == nullptr && s.hidden % s.heads != 0) {
    return config.Fault("head_dim",
                        "a value, for hidden_size is not a multiple of "
                        "num_attention_heads");
  }
  SA_RETURN_IF_ERROR(config.Int("head_dim", s.hidden / s.heads, &s.head_dim));
  SA_RETURN_IF_ERROR(config.Int("max_position_embeddings", 2048, &s.context));
  SA_RETURN_IF_ERROR(config.Real("rms_norm_eps", 1e-6, &s.norm_eps));
  SA_RETURN_IF_ERROR(ReadRope(config, &s));
  SA_RETURN_IF_ERROR(config.Bool("tie_word_embeddings", false, &s.tied_embeddings));
  SA_RETURN_IF_ERROR(config.Bool("attention_bias", false, &s.qkv_bias));
  SA_RETURN_IF_ERROR(config.Bool("attention_out_bias", s.qkv_bias, &s.o_bias));
  SA_RETURN_IF_ERROR(config.Bool("mlp_bias", false, &s.mlp_bias));
  std::vector<int64_t> bos;
  SA_RETURN_IF_ERROR(config.Tokens("bos_token_id", &bos));
  if (!bos.empty()) s.bos_token = bos.front();
  SA_RETURN_IF_ERROR(config.Tokens("eos_token_id", &s.eos_tokens));
  return s;
}

json ToConfig(const ArchitectureSpec& s) {
  json config = {{"architectures", {"LlamaForCausalLM"}},
                 {"model_type", "llama"},
                 {"vocab_size", s.vocab},
                 {"hidden_size", s.hidden},
                 {"intermediate_size", s.intermediate},
                 {"num_hidden_layers", s.blocks},
                 {"num_attention_heads", s.heads},
                 {"num_key_value_heads", s.kv_heads},
                 {"head_dim", s.head_dim},
                 {"max_position_embeddings", s.context},
                 {"rms_norm_eps", s.norm_eps},
                 {"hidden_act", "silu"},
                 {"rope_theta", s.rope_theta},
                 {"rope_scaling", nullptr},
                 {"tie_word_embeddings", s.tied_embeddings},
                 {"attention_bias", s.qkv_bias},
                 {"mlp_bias", s.mlp_bias}};
  if (s.o_bias != s.qkv_bias) config["attention_out_bias"] = s.o_bias;
  if (s.rope_scaling == RopeScaling::kLinear) {
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", s.rope_factor}};
  } else if (s.rope_scaling == RopeScaling::kLlama3) {
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", s.rope_factor},
                              {"low_freq_factor", s.rope_low_freq_factor},
                              {"high_freq_factor", s.rope_high_freq_factor},
                              {"original_max_position_embeddings", s.rope_original_context}};
  }
  config["bos_token_id"] = s.bos_token < 0 ? json(nullptr) : json(s.bos_token);
  config["eos_token_id"] = s.eos_tokens.empty()       ? json(nullptr)
                           : s.eos_tokens.size() == 1 ? json(s.eos_tokens.front())
                                                      : json(s.eos_tokens);
  return config;
}

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

bool HasBias(const ArchitectureSpec& s, BlockInput input) {
  switch (input) {
    case BlockInput::kAttn:
      return s.qkv_bias;
    case BlockInput::kAttnOut:
      return s.o_bias;
    case BlockInput::kMlp:
    case BlockInput::kMlpAct:
      return s.mlp_bias;
  }
  return false;
}

void AddBlock(const ArchitectureSpec& s, int64_t block, std::vector<FamilyTensor>* out) {
  const std::string canonical = absl::StrCat("blocks.", block, ".");
  const std::string hf = absl::StrCat("model.layers.", block, ".");
  const std::string gguf = absl::StrCat("blk.", block, ".");
  out->push_back({canonical + "attn_norm",
                  hf + "input_layernorm.weight",
                  gguf + "attn_norm.weight",
                  {s.hidden}});
  out->push_back({canonical + "mlp_norm",
                  hf + "post_attention_layernorm.weight",
                  gguf + "ffn_norm.weight",
                  {s.hidden}});
  const std::vector<LinearLayer> layers = BlockLayers(s, block);
  for (size_t i = 0; i < layers.size(); ++i) {
    const LinearLayer& layer = layers[i];
    const PartNames& names = kLinearNames[i];
    const int64_t interleaved = layer.kind == "q" ? s.heads : layer.kind == "k" ? s.kv_heads : 0;
    out->push_back({layer.name,
                    absl::StrCat(hf, names.hugging_face, ".weight"),
                    absl::StrCat(gguf, names.gguf, ".weight"),
                    {layer.rows, layer.cols},
                    interleaved});
    if (!HasBias(s, layer.input)) continue;
    out->push_back({layer.name + ".bias",
                    absl::StrCat(hf, names.hugging_face, ".bias"),
                    absl::StrCat(gguf, names.gguf, ".bias"),
                    {layer.rows},
                    interleaved});
  }
}

std::vector<FamilyTensor> Tensors(const ArchitectureSpec& s) {
  std::vector<FamilyTensor> out;
  out.push_back({"embed", "model.embed_tokens.weight", "token_embd.weight", {s.vocab, s.hidden}});
  for (int64_t b = 0; b < s.blocks; ++b) AddBlock(s, b, &out);
  out.push_back({"final_norm", "model.norm.weight", "output_norm.weight", {s.hidden}});
  if (!s.tied_embeddings) {
    out.push_back({"head", "lm_head.weight", "output.weight", {s.vocab, s.hidden}});
  }
  return out;
}

bool Ignored(const ArchitectureSpec& s, const std::string& name) {
  if (s.tied_embeddings && name == "lm_head.weight") return true;
  return name == "rope_freqs.weight" || absl::EndsWith(name, ".rotary_emb.inv_freq");
}

}  // namespace

Family LlamaFamily() {
  return {"llama",
          {"LlamaForCausalLM"},
          {"llama"},
          &FromConfig,
          &LlamaSpecFromGguf,
          &ToConfig,
          &Tensors,
          &Ignored};
}

}  // namespace shiftadd
