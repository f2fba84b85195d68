#include "worker/model/llama_family.h"

#include "services/base/status_macros.h"
#include "worker/model/decoder_family.h"

namespace shiftadd {
namespace {

using nlohmann::json;

absl::StatusOr<ArchitectureSpec> FromConfig(const json& object, const std::string& file) {
  const HuggingFaceConfig config(object, file);
  const json* activation = config.Find("hidden_act");
  if (activation != nullptr && *activation != "silu" && *activation != "swish") {
    return config.Unsupported("hidden_act", "silu");
  }
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s, DecoderFromConfig(config, {.family = "llama"}));
  SA_RETURN_IF_ERROR(config.Bool("attention_bias", false, &s.qkv_bias));
  SA_RETURN_IF_ERROR(config.Bool("attention_out_bias", s.qkv_bias, &s.o_bias));
  SA_RETURN_IF_ERROR(config.Bool("mlp_bias", false, &s.mlp_bias));
  SA_RETURN_IF_ERROR(config.RefuseUnread());
  return s;
}

json ToConfig(const ArchitectureSpec& s) {
  json config = DecoderToConfig(s, "LlamaForCausalLM", "llama");
  config["hidden_act"] = "silu";
  config["attention_bias"] = s.qkv_bias;
  config["mlp_bias"] = s.mlp_bias;
  if (s.o_bias != s.qkv_bias) config["attention_out_bias"] = s.o_bias;
  return config;
}

std::vector<FamilyTensor> Tensors(const ArchitectureSpec& s) {
  return DecoderTensors(s, {.interleaved = true});
}

}  // namespace

Family LlamaFamily() {
  return {"llama",  {"LlamaForCausalLM"}, {"llama"}, &FromConfig, &LlamaSpecFromGguf, &ToConfig,
          &Tensors, &DecoderIgnored};
}

}  // namespace shiftadd
