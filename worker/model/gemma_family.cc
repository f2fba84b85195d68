#include "worker/model/gemma_family.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/decoder_family.h"

namespace shiftadd {
namespace {

using nlohmann::json;

// What all three have.
void SetGemma(ArchitectureSpec* s) {
  s->activation = Activation::kGeluTanh;
  s->embed_scale = std::sqrt(static_cast<double>(s->hidden));
}

void SetQueryScalar(double scalar, ArchitectureSpec* s) {
  s->attention_scale = scalar == static_cast<double>(s->head_dim) ? 0.0 : 1.0 / std::sqrt(scalar);
}

absl::Status CheckActivation(const HuggingFaceConfig& config, const char* field) {
  const json* found = config.Find(field);
  if (found == nullptr || *found == "gelu_pytorch_tanh" || *found == "gelu_new") {
    return absl::OkStatus();
  }
  return config.Unsupported(field, "gelu_pytorch_tanh");
}

absl::StatusOr<ArchitectureSpec> CommonFromConfig(const HuggingFaceConfig& config,
                                                  const DecoderDefaults& defaults) {
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s, DecoderFromConfig(config, defaults));
  SetGemma(&s);
  SA_RETURN_IF_ERROR(config.Bool("attention_bias", false, &s.qkv_bias));
  s.o_bias = s.qkv_bias;
  SA_RETURN_IF_ERROR(config.Only("use_bidirectional_attention", false));
  return s;
}

absl::StatusOr<ArchitectureSpec> Gemma1FromConfig(const json& object, const std::string& file) {
  const HuggingFaceConfig config(object, file);
  SA_RETURN_IF_ERROR(CheckActivation(config, "hidden_activation"));
  // The first files say "gelu" here and mean its tanh formula, as the models were trained.
  const json* old = config.Find("hidden_act");
  if (old != nullptr && *old != "gelu") SA_RETURN_IF_ERROR(CheckActivation(config, "hidden_act"));
  SA_ASSIGN_OR_RETURN(
      ArchitectureSpec s,
      CommonFromConfig(
          config, {.family = "gemma", .head_dim = 256, .context = 8192, .tied_embeddings = true}));
  SA_RETURN_IF_ERROR(config.RefuseUnread());
  return s;
}

// Local blocks: all but every `period`th.
absl::Status ReadWindows(const HuggingFaceConfig& config, int64_t window, int64_t period,
                         ArchitectureSpec* s) {
  SA_RETURN_IF_ERROR(config.Count("sliding_window", window, &s->window));
  // Gemma 2's files say it twice, and implementations differ in which they read.
  int64_t again = 0;
  SA_RETURN_IF_ERROR(config.Int("sliding_window_size", s->window, &again));
  if (again != s->window) {
    return config.Fault("sliding_window_size", absl::StrCat("sliding_window, ", s->window));
  }
  SA_RETURN_IF_ERROR(config.Count("sliding_window_pattern", period, &period));
  SA_ASSIGN_OR_RETURN(const bool said, ReadLayerTypes(config, s));
  for (int64_t b = 0; !said && b < s->blocks; ++b) {
    if ((b + 1) % period != 0) s->local_blocks.push_back(b);
  }
  if (s->local_blocks.empty()) s->window = 0;
  return absl::OkStatus();
}

absl::Status ReadScores(const HuggingFaceConfig& config, double attention_cap, double logit_cap,
                        ArchitectureSpec* s) {
  double scalar = 256;
  SA_RETURN_IF_ERROR(config.Real("query_pre_attn_scalar", scalar, &scalar));
  if (!(scalar > 0)) return config.Fault("query_pre_attn_scalar", "a positive number");
  SetQueryScalar(scalar, s);
  SA_RETURN_IF_ERROR(config.Real("attn_logit_softcapping", attention_cap, &s->attention_cap));
  return config.Real("final_logit_softcapping", logit_cap, &s->logit_cap);
}

absl::StatusOr<ArchitectureSpec> Gemma2FromConfig(const json& object, const std::string& file) {
  const HuggingFaceConfig config(object, file);
  SA_RETURN_IF_ERROR(CheckActivation(config, "hidden_activation"));
  SA_RETURN_IF_ERROR(CheckActivation(config, "hidden_act"));
  SA_ASSIGN_OR_RETURN(
      ArchitectureSpec s,
      CommonFromConfig(
          config, {.family = "gemma2", .head_dim = 256, .context = 8192, .tied_embeddings = true}));
  s.norm_place = NormPlace::kAround;
  SA_RETURN_IF_ERROR(ReadWindows(config, 4096, 2, &s));
  // Null switches a cap off, a missing field means the default.
  SA_RETURN_IF_ERROR(ReadScores(config, object.contains("attn_logit_softcapping") ? 0 : 50,
                                object.contains("final_logit_softcapping") ? 0 : 30, &s));
  SA_RETURN_IF_ERROR(config.Only("cache_implementation", "hybrid"));
  SA_RETURN_IF_ERROR(config.RefuseUnread());
  return s;
}

absl::StatusOr<ArchitectureSpec> Gemma3TextFromConfig(const json& object, const std::string& file) {
  const HuggingFaceConfig config(object, file);
  SA_RETURN_IF_ERROR(CheckActivation(config, "hidden_activation"));
  SA_RETURN_IF_ERROR(CheckActivation(config, "hidden_act"));
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s, CommonFromConfig(config, {.family = "gemma3",
                                                                    .head_dim = 256,
                                                                    .context = 131072,
                                                                    .rope_theta = 1e6,
                                                                    .tied_embeddings = true}));
  s.norm_place = NormPlace::kAround;
  s.qk_norm = true;
  SA_RETURN_IF_ERROR(ReadWindows(config, 4096, 6, &s));
  SA_RETURN_IF_ERROR(ReadScores(config, 0, 0, &s));
  const double local = s.rope_local_theta > 0 ? s.rope_local_theta : 10000.0;
  SA_RETURN_IF_ERROR(config.Real("rope_local_base_freq", local, &s.rope_local_theta));
  SA_RETURN_IF_ERROR(config.RefuseUnread());
  return s;
}

// A model that sees pictures too: the language model's fields stand in text_config, and those that
// are not said there mean the text model's defaults.
absl::StatusOr<ArchitectureSpec> Gemma3FromConfig(const json& object, const std::string& file) {
  const HuggingFaceConfig config(object, file);
  const json* nested = config.Find("text_config");
  if (nested == nullptr) return Gemma3TextFromConfig(object, file);
  if (!nested->is_object()) return config.Fault("text_config", "an object");
  json text = {{"vocab_size", 262208},    {"hidden_size", 2304},      {"intermediate_size", 9216},
               {"num_hidden_layers", 26}, {"num_attention_heads", 8}, {"num_key_value_heads", 4}};
  text.update(*nested);
  for (const char* name : {"bos_token_id", "eos_token_id", "tie_word_embeddings"}) {
    const json* outside = config.Find(name);
    if (outside != nullptr && !nested->contains(name)) text[name] = *outside;
  }
  // Where pictures come in.
  for (const char* name : {"boi_token_index", "eoi_token_index", "image_token_index",
                           "mm_tokens_per_image", "vision_config"}) {
    config.Find(name);
  }
  SA_RETURN_IF_ERROR(config.RefuseUnread());
  return Gemma3TextFromConfig(text, file + ": text_config");
}

json ToConfig(const ArchitectureSpec& s, const std::string& architecture,
              const std::string& model_type) {
  json config = DecoderToConfig(s, architecture, model_type);
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["attention_bias"] = s.qkv_bias;
  if (s.norm_place != NormPlace::kAround) return config;
  const double scalar = s.attention_scale > 0 ? 1.0 / (s.attention_scale * s.attention_scale)
                                              : static_cast<double>(s.head_dim);
  // What it was before the root, where that was a whole number.
  const double whole = std::round(scalar);
  config["query_pre_attn_scalar"] =
      std::abs(scalar - whole) < 1e-6 ? json(std::llround(whole)) : json(scalar);
  config["attn_logit_softcapping"] = s.attention_cap > 0 ? json(s.attention_cap) : json();
  config["final_logit_softcapping"] = s.logit_cap > 0 ? json(s.logit_cap) : json();
  if (s.window > 0) config["sliding_window"] = s.window;
  config["layer_types"] = LayerTypes(s);
  if (s.rope_local_theta > 0) config["rope_local_base_freq"] = s.rope_local_theta;
  return config;
}

json Gemma1ToConfig(const ArchitectureSpec& s) { return ToConfig(s, "GemmaForCausalLM", "gemma"); }
json Gemma2ToConfig(const ArchitectureSpec& s) {
  return ToConfig(s, "Gemma2ForCausalLM", "gemma2");
}
json Gemma3ToConfig(const ArchitectureSpec& s) {
  return ToConfig(s, "Gemma3ForCausalLM", "gemma3_text");
}

absl::StatusOr<ArchitectureSpec> Gemma1FromGguf(const TensorSource& source,
                                                const std::string& file) {
  const GgufMetadata meta(source.metadata(), file);
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s,
                      DecoderFromGguf(source, meta, "gemma", {.family = "gemma", .head_dim = 256}));
  SetGemma(&s);
  SA_RETURN_IF_ERROR(meta.RefuseUnread("gemma."));
  return s;
}

// GGUF does not say how scores are scaled: by the width of heads, but in the largest model of a
// generation by that of the stream, hidden / heads.
absl::StatusOr<ArchitectureSpec> AroundFromGguf(const TensorSource& source,
                                                const GgufMetadata& meta, const std::string& name,
                                                int64_t period, int64_t largest,
                                                double rope_theta) {
  const std::string prefix = name + ".";
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s,
                      DecoderFromGguf(source, meta, name,
                                      {.family = name, .head_dim = 256, .rope_theta = rope_theta}));
  SetGemma(&s);
  s.norm_place = NormPlace::kAround;
  if (s.blocks == largest) {
    SetQueryScalar(static_cast<double>(s.hidden) / static_cast<double>(s.heads), &s);
  }
  SA_ASSIGN_OR_RETURN(s.attention_cap,
                      meta.Real(prefix + "attn_logit_softcapping", name == "gemma2" ? 50.0 : 0.0));
  SA_ASSIGN_OR_RETURN(s.logit_cap,
                      meta.Real(prefix + "final_logit_softcapping", name == "gemma2" ? 30.0 : 0.0));
  SA_ASSIGN_OR_RETURN(s.window,
                      meta.Int(prefix + "attention.sliding_window", name == "gemma2" ? 4096 : 0));
  const std::string period_key = prefix + "attention.sliding_window_pattern";
  const json* pattern = meta.Find(period_key);
  if (pattern != nullptr && !pattern->is_number_integer()) {
    return absl::UnimplementedError(
        absl::StrCat(meta.file(), ": metadata '", period_key, "' is no number: not supported"));
  }
  SA_ASSIGN_OR_RETURN(period, meta.Int(period_key, period));
  if (period < 1) return meta.Fault(period_key, "at least 1");
  for (int64_t b = 0; s.window > 0 && b < s.blocks; ++b) {
    if ((b + 1) % period != 0) s.local_blocks.push_back(b);
  }
  return s;
}

absl::StatusOr<ArchitectureSpec> Gemma2FromGguf(const TensorSource& source,
                                                const std::string& file) {
  const GgufMetadata meta(source.metadata(), file);
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s, AroundFromGguf(source, meta, "gemma2", 2, 46, 10000.0));
  SA_RETURN_IF_ERROR(meta.RefuseUnread("gemma2."));
  return s;
}

absl::StatusOr<ArchitectureSpec> Gemma3FromGguf(const TensorSource& source,
                                                const std::string& file) {
  const GgufMetadata meta(source.metadata(), file);
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s, AroundFromGguf(source, meta, "gemma3", 6, 62, 1e6));
  SA_ASSIGN_OR_RETURN(s.rope_local_theta, meta.Real("gemma3.rope.freq_base_swa", 10000.0));
  SA_RETURN_IF_ERROR(meta.RefuseUnread("gemma3."));
  return s;
}

// GGUF's norms carry the 1 already.
std::vector<FamilyTensor> Tensors(const ArchitectureSpec& s) {
  return DecoderTensors(s, {.hugging_face_norm = 1.0f});
}

}  // namespace

Family GemmaFamily() {
  return {"gemma",         {"GemmaForCausalLM"}, {"gemma"}, &Gemma1FromConfig,
          &Gemma1FromGguf, &Gemma1ToConfig,      &Tensors,  &DecoderIgnored};
}
Family Gemma2Family() {
  return {"gemma2",        {"Gemma2ForCausalLM"}, {"gemma2"}, &Gemma2FromConfig,
          &Gemma2FromGguf, &Gemma2ToConfig,       &Tensors,   &DecoderIgnored};
}
Family Gemma3Family() {
  Family family = {"gemma3",        {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"},
                   {"gemma3"},      &Gemma3FromConfig,
                   &Gemma3FromGguf, &Gemma3ToConfig,
                   &Tensors,        &DecoderIgnored};
  family.nested = {{"model.", "model.language_model."},
                   {"model.", "language_model.model."},
                   {"lm_head.", "language_model.lm_head."}};
  family.left_out = {"vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                     "model.multi_modal_projector."};
  return family;
}

}  // namespace shiftadd
