#include "worker/model/hugging_face_config.h"

#include <tuple>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

using nlohmann::json;

// Fields that configs have and that change no logit of a model that runs as it was trained: names,
// training, generation, how a library loads and returns things.
const std::set<std::string>& SayNothing() {
  static const auto* const names = new std::set<std::string>{"_attn_implementation",
                                                             "_attn_implementation_autoset",
                                                             "_commit_hash",
                                                             "_flash_attn_2_enabled",
                                                             "_name_or_path",
                                                             "_sliding_window_pattern",
                                                             "activation_dropout",
                                                             "add_cross_attention",
                                                             "architectures",
                                                             "attention_dropout",
                                                             "attention_softmax_in_fp32",
                                                             "attn_pdrop",
                                                             "auto_map",
                                                             "bad_words_ids",
                                                             "begin_suppress_tokens",
                                                             "bias_dropout_fusion",
                                                             "bos_token_id",
                                                             "cache_implementation",
                                                             "chunk_size_feed_forward",
                                                             "cross_attention_hidden_size",
                                                             "decoder_start_token_id",
                                                             "diversity_penalty",
                                                             "do_sample",
                                                             "dropout",
                                                             "dtype",
                                                             "early_stopping",
                                                             "embd_pdrop",
                                                             "encoder_no_repeat_ngram_size",
                                                             "eos_token_id",
                                                             "exponential_decay_length_penalty",
                                                             "finetuning_task",
                                                             "forced_bos_token_id",
                                                             "forced_eos_token_id",
                                                             "hidden_dropout",
                                                             "hidden_dropout_prob",
                                                             "id2label",
                                                             "init_std",
                                                             "initializer_range",
                                                             "is_decoder",
                                                             "is_encoder_decoder",
                                                             "is_llama_config",
                                                             "label2id",
                                                             "layerdrop",
                                                             "length_penalty",
                                                             "masked_softmax_fusion",
                                                             "max_length",
                                                             "max_sequence_length",
                                                             "max_window_layers",
                                                             "min_length",
                                                             "model_type",
                                                             "no_repeat_ngram_size",
                                                             "num_beam_groups",
                                                             "num_beams",
                                                             "num_return_sequences",
                                                             "offset_alibi",
                                                             "output_attentions",
                                                             "output_hidden_states",
                                                             "output_scores",
                                                             "pad_token_id",
                                                             "prefix",
                                                             "pretraining_tp",
                                                             "problem_type",
                                                             "pruned_heads",
                                                             "remove_invalid_values",
                                                             "repetition_penalty",
                                                             "resid_pdrop",
                                                             "return_dict",
                                                             "return_dict_in_generate",
                                                             "rope_interleaved",
                                                             "sep_token_id",
                                                             "seq_length",
                                                             "skip_bias_add",
                                                             "skip_bias_add_qkv",
                                                             "slow_but_exact",
                                                             "suppress_tokens",
                                                             "task_specific_params",
                                                             "temperature",
                                                             "tf_legacy_loss",
                                                             "tie_encoder_decoder",
                                                             "tokenizer_class",
                                                             "top_k",
                                                             "top_p",
                                                             "torch_dtype",
                                                             "torchscript",
                                                             "transformers.js_config",
                                                             "transformers_version",
                                                             "typical_p",
                                                             "unk_token_id",
                                                             "unsloth_fixed",
                                                             "unsloth_version",
                                                             "use_bfloat16",
                                                             "use_cache"};
  return *names;
}

std::string Shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 80) + "...";
  return text;
}

// The name of a scaling, under its old or its new field. Empty where none is said.
absl::Status ReadRopeKind(const HuggingFaceConfig& rope, std::string* field, json* kind) {
  const json* now = rope.Find("rope_type");
  const json* old = rope.Find("type");
  *field = now == nullptr && old != nullptr ? "type" : "rope_type";
  if (now != nullptr && old != nullptr && *now != *old) {
    return rope.Unsupported("type", absl::StrCat("what rope_type says, ", Shown(*now)));
  }
  *kind = now != nullptr ? *now : old != nullptr ? *old : json("default");
  return absl::OkStatus();
}

// One set of RoPE parameters: theta and a scaling, if it is one of those that are supported. What
// it has beside them is refused by name.
absl::Status ReadRopeObject(const HuggingFaceConfig& rope, ArchitectureSpec* s) {
  SA_RETURN_IF_ERROR(rope.Real("rope_theta", s->rope_theta, &s->rope_theta));
  SA_RETURN_IF_ERROR(rope.Only("partial_rotary_factor", 1.0));
  std::string kind_field;
  json kind;
  SA_RETURN_IF_ERROR(ReadRopeKind(rope, &kind_field, &kind));
  rope.Find("original_max_position_embeddings");  // of the model before, where no ramp reads it
  if (kind == "default") return rope.RefuseUnread();
  if (kind == "linear") {
    s->rope_scaling = RopeScaling::kLinear;
  } else if (kind == "llama3") {
    s->rope_scaling = RopeScaling::kLlama3;
    SA_RETURN_IF_ERROR(rope.Real("low_freq_factor", 1.0, &s->rope_low_freq_factor));
    SA_RETURN_IF_ERROR(rope.Real("high_freq_factor", 4.0, &s->rope_high_freq_factor));
    SA_RETURN_IF_ERROR(rope.Int("original_max_position_embeddings", -1, &s->rope_original_context));
  } else {
    return rope.Unsupported(kind_field, "default, linear, llama3");
  }
  if (rope.Find("factor") == nullptr) return rope.Fault("factor", "a number");
  SA_RETURN_IF_ERROR(rope.Real("factor", 1.0, &s->rope_factor));
  return rope.RefuseUnread();
}

// rope_parameters or rope_scaling: one set, or one for the blocks that see everything and one for
// the local ones.
absl::Status ReadRopeField(const HuggingFaceConfig& config, const char* field,
                           ArchitectureSpec* s) {
  const json* value = config.Find(field);
  if (!value->is_object()) return config.Fault(field, "an object");
  const std::string where = absl::StrCat(config.file(), ": ", field);
  const auto full = value->find("full_attention"), local = value->find("sliding_attention");
  if (full == value->end()) return ReadRopeObject(HuggingFaceConfig(*value, where), s);
  if (!full->is_object() || local == value->end() || !local->is_object() || value->size() != 2) {
    return config.Fault(field, "objects full_attention and sliding_attention and nothing else");
  }
  SA_RETURN_IF_ERROR(ReadRopeObject(HuggingFaceConfig(*full, where + ": full_attention"), s));
  ArchitectureSpec of_local;
  const HuggingFaceConfig in(*local, where + ": sliding_attention");
  SA_RETURN_IF_ERROR(ReadRopeObject(in, &of_local));
  if (of_local.rope_scaling != RopeScaling::kNone) return in.Unsupported("rope_type", "default");
  s->rope_local_theta = of_local.rope_theta;
  return absl::OkStatus();
}

bool SameRope(const ArchitectureSpec& a, const ArchitectureSpec& b) {
  const auto all = [](const ArchitectureSpec& s) {
    return std::make_tuple(s.rope_theta, s.rope_local_theta, s.rope_scaling, s.rope_factor,
                           s.rope_low_freq_factor, s.rope_high_freq_factor,
                           s.rope_original_context);
  };
  return all(a) == all(b);
}

}  // namespace

const json* HuggingFaceConfig::Find(const std::string& name) const {
  read_.insert(name);
  const auto it = config_.find(name);
  return it == config_.end() || it->is_null() ? nullptr : &*it;
}

absl::Status HuggingFaceConfig::Fault(const std::string& name, absl::string_view expected) const {
  const json* value = Find(name);
  return absl::InvalidArgumentError(absl::StrCat(file_, ": field '", name, "' is ",
                                                 value == nullptr ? "missing" : Shown(*value),
                                                 ", expected ", expected));
}

absl::Status HuggingFaceConfig::Unsupported(const std::string& name,
                                            absl::string_view supported) const {
  const json* value = Find(name);
  return absl::UnimplementedError(absl::StrCat(file_, ": field '", name, "' is ",
                                               value == nullptr ? "missing" : Shown(*value),
                                               ": not supported, supported are: ", supported));
}

absl::Status HuggingFaceConfig::Int(const std::string& name, int64_t fallback, int64_t* out) const {
  const json* value = Find(name);
  if (value == nullptr && fallback >= 0) {
    *out = fallback;
    return absl::OkStatus();
  }
  if (value == nullptr || !value->is_number_integer()) return Fault(name, "an integer");
  *out = value->get<int64_t>();
  return absl::OkStatus();
}

absl::Status HuggingFaceConfig::Count(const std::string& name, int64_t fallback,
                                      int64_t* out) const {
  SA_RETURN_IF_ERROR(Int(name, fallback, out));
  return *out >= 1 ? absl::OkStatus() : Fault(name, "at least 1");
}

absl::Status HuggingFaceConfig::Real(const std::string& name, double fallback, double* out) const {
  const json* value = Find(name);
  *out = fallback;
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_number()) return Fault(name, "a number");
  *out = value->get<double>();
  return absl::OkStatus();
}

absl::Status HuggingFaceConfig::Bool(const std::string& name, bool fallback, bool* out) const {
  const json* value = Find(name);
  *out = fallback;
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_boolean()) return Fault(name, "true or false");
  *out = value->get<bool>();
  return absl::OkStatus();
}

absl::Status HuggingFaceConfig::Tokens(const std::string& name, std::vector<int64_t>* out) const {
  const json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& item : list) {
    if (!item.is_number_integer()) return Fault(name, "a token id or a list of them");
    out->push_back(item.get<int64_t>());
  }
  return absl::OkStatus();
}

absl::Status HuggingFaceConfig::Only(const std::string& name, const json& value) const {
  const json* found = Find(name);
  if (found == nullptr || *found == value) return absl::OkStatus();
  return Unsupported(name, Shown(value));
}

absl::Status HuggingFaceConfig::SpecialTokens(ArchitectureSpec* spec) const {
  std::vector<int64_t> bos;
  SA_RETURN_IF_ERROR(Tokens("bos_token_id", &bos));
  if (!bos.empty()) spec->bos_token = bos.front();
  return Tokens("eos_token_id", &spec->eos_tokens);
}

absl::Status HuggingFaceConfig::RefuseUnread() const {
  if (const json* plain = Find("quantization_config"); plain != nullptr) {
    return Unsupported("quantization_config", "models with plain weights");
  }
  for (const auto& [name, value] : config_.items()) {
    if (value.is_null() || read_.count(name) > 0 || SayNothing().count(name) > 0) continue;
    return absl::UnimplementedError(
        absl::StrCat(file_, ": field '", name, "' (", Shown(value),
                     ") is not known, and may change what the model computes: it must be null or "
                     "go if it does not"));
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const HuggingFaceConfig& config, double default_theta, ArchitectureSpec* s) {
  SA_RETURN_IF_ERROR(config.Real("rope_theta", default_theta, &s->rope_theta));
  SA_RETURN_IF_ERROR(config.Only("partial_rotary_factor", 1.0));
  // Newer files keep theta and the scaling together in rope_parameters.
  const bool old = config.Find("rope_scaling") != nullptr;
  if (config.Find("rope_parameters") == nullptr) {
    return old ? ReadRopeField(config, "rope_scaling", s) : absl::OkStatus();
  }
  ArchitectureSpec other = *s;
  SA_RETURN_IF_ERROR(ReadRopeField(config, "rope_parameters", s));
  if (!old) return absl::OkStatus();
  other.rope_theta = s->rope_theta;
  other.rope_local_theta = s->rope_local_theta;
  SA_RETURN_IF_ERROR(ReadRopeField(config, "rope_scaling", &other));
  return SameRope(*s, other) ? absl::OkStatus()
                             : config.Unsupported("rope_scaling", "what rope_parameters says");
}

void WriteRope(const ArchitectureSpec& s, json* config) {
  (*config)["rope_theta"] = s.rope_theta;
  json& scaling = (*config)["rope_scaling"] = nullptr;
  if (s.rope_scaling == RopeScaling::kLinear) {
    scaling = {{"rope_type", "linear"}, {"factor", s.rope_factor}};
  } else if (s.rope_scaling == RopeScaling::kLlama3) {
    scaling = {{"rope_type", "llama3"},
               {"factor", s.rope_factor},
               {"low_freq_factor", s.rope_low_freq_factor},
               {"high_freq_factor", s.rope_high_freq_factor},
               {"original_max_position_embeddings", s.rope_original_context}};
  }
}

absl::StatusOr<bool> ReadLayerTypes(const HuggingFaceConfig& config, ArchitectureSpec* s) {
  const json* types = config.Find("layer_types");
  if (types == nullptr) return false;
  const bool fits = types->is_array() && static_cast<int64_t>(types->size()) == s->blocks;
  if (!fits) return config.Fault("layer_types", absl::StrCat("a list of ", s->blocks, " types"));
  for (int64_t b = 0; b < s->blocks; ++b) {
    const json& type = (*types)[static_cast<size_t>(b)];
    if (type == "sliding_attention") {
      s->local_blocks.push_back(b);
    } else if (type != "full_attention") {
      return config.Unsupported("layer_types", "full_attention, sliding_attention");
    }
  }
  return true;
}

json LayerTypes(const ArchitectureSpec& s) {
  json types = json::array();
  for (int64_t b = 0; b < s.blocks; ++b) {
    types.push_back(s.IsLocal(b) ? "sliding_attention" : "full_attention");
  }
  return types;
}

}  // namespace shiftadd
