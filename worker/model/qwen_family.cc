#include "worker/model/qwen_family.h"

#include "services/base/status_macros.h"
#include "worker/model/decoder_family.h"

namespace shiftadd {
namespace {

using nlohmann::json;

absl::Status ReadWindows(const HuggingFaceConfig& config, ArchitectureSpec* s) {
  bool use = false;
  int64_t full = 0;
  SA_RETURN_IF_ERROR(config.Bool("use_sliding_window", false, &use));
  SA_RETURN_IF_ERROR(config.Int("sliding_window", 0, &s->window));
  SA_RETURN_IF_ERROR(config.Int("max_window_layers", 28, &full));
  SA_ASSIGN_OR_RETURN(const bool said, ReadLayerTypes(config, s));
  for (int64_t b = full; !said && use && s->window > 0 && b < s->blocks; ++b) {
    s->local_blocks.push_back(b);
  }
  // Files carry a window that is switched off.
  if (!use) s->local_blocks.clear();
  if (s->local_blocks.empty()) s->window = 0;
  return absl::OkStatus();
}

void WriteWindows(const ArchitectureSpec& s, json* config) {
  (*config)["use_sliding_window"] = s.window > 0;
  (*config)["sliding_window"] = s.window > 0 ? json(s.window) : json();
  if (s.window > 0) (*config)["layer_types"] = LayerTypes(s);
}

absl::StatusOr<ArchitectureSpec> Qwen2FromConfig(const json& object, const std::string& file) {
  const HuggingFaceConfig config(object, file);
  SA_RETURN_IF_ERROR(config.Only("hidden_act", "silu"));
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s,
                      DecoderFromConfig(config, {.family = "qwen2", .context = 32768}));
  s.qkv_bias = true;
  SA_RETURN_IF_ERROR(ReadWindows(config, &s));
  SA_RETURN_IF_ERROR(config.Only("use_mrope", false));
  SA_RETURN_IF_ERROR(config.RefuseUnread());
  return s;
}

json Qwen2ToConfig(const ArchitectureSpec& s) {
  json config = DecoderToConfig(s, "Qwen2ForCausalLM", "qwen2");
  config["hidden_act"] = "silu";
  WriteWindows(s, &config);
  return config;
}

absl::StatusOr<ArchitectureSpec> Qwen3FromConfig(const json& object, const std::string& file) {
  const HuggingFaceConfig config(object, file);
  SA_RETURN_IF_ERROR(config.Only("hidden_act", "silu"));
  SA_ASSIGN_OR_RETURN(
      ArchitectureSpec s,
      DecoderFromConfig(config, {.family = "qwen3", .head_dim = 128, .context = 32768}));
  s.qk_norm = true;
  SA_RETURN_IF_ERROR(config.Bool("attention_bias", false, &s.qkv_bias));
  s.o_bias = s.qkv_bias;
  SA_RETURN_IF_ERROR(ReadWindows(config, &s));
  SA_RETURN_IF_ERROR(config.RefuseUnread());
  return s;
}

json Qwen3ToConfig(const ArchitectureSpec& s) {
  json config = DecoderToConfig(s, "Qwen3ForCausalLM", "qwen3");
  config["hidden_act"] = "silu";
  config["attention_bias"] = s.qkv_bias;
  WriteWindows(s, &config);
  return config;
}

absl::StatusOr<ArchitectureSpec> Qwen2FromGguf(const TensorSource& source,
                                               const std::string& file) {
  const GgufMetadata meta(source.metadata(), file);
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s,
                      DecoderFromGguf(source, meta, "qwen2", {.family = "qwen2"}));
  SA_RETURN_IF_ERROR(meta.RefuseUnread("qwen2."));
  return s;
}

absl::StatusOr<ArchitectureSpec> Qwen3FromGguf(const TensorSource& source,
                                               const std::string& file) {
  const GgufMetadata meta(source.metadata(), file);
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s,
                      DecoderFromGguf(source, meta, "qwen3", {.family = "qwen3"}));
  SA_RETURN_IF_ERROR(meta.RefuseUnread("qwen3."));
  return s;
}

std::vector<FamilyTensor> Tensors(const ArchitectureSpec& s) { return DecoderTensors(s, {}); }

}  // namespace

Family Qwen2Family() {
  return {"qwen2",        {"Qwen2ForCausalLM"}, {"qwen2"}, &Qwen2FromConfig,
          &Qwen2FromGguf, &Qwen2ToConfig,       &Tensors,  &DecoderIgnored};
}

Family Qwen3Family() {
  return {"qwen3",        {"Qwen3ForCausalLM"}, {"qwen3"}, &Qwen3FromConfig,
          &Qwen3FromGguf, &Qwen3ToConfig,       &Tensors,  &DecoderIgnored};
}

}  // namespace shiftadd
