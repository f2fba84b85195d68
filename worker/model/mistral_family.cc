#include "worker/model/mistral_family.h"

#include "services/base/status_macros.h"
#include "worker/model/decoder_family.h"

namespace shiftadd {
namespace {

using nlohmann::json;

absl::StatusOr<ArchitectureSpec> FromConfig(const json& object, const std::string& file) {
  const HuggingFaceConfig config(object, file);
  SA_RETURN_IF_ERROR(config.Only("hidden_act", "silu"));
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s,
                      DecoderFromConfig(config, {.family = "mistral", .context = 131072}));
  SA_RETURN_IF_ERROR(config.Int("sliding_window", 0, &s.window));
  SA_ASSIGN_OR_RETURN(const bool said, ReadLayerTypes(config, &s));
  for (int64_t b = 0; !said && s.window > 0 && b < s.blocks; ++b) s.local_blocks.push_back(b);
  if (s.local_blocks.empty()) s.window = 0;
  SA_RETURN_IF_ERROR(config.RefuseUnread());
  return s;
}

json ToConfig(const ArchitectureSpec& s) {
  json config = DecoderToConfig(s, "MistralForCausalLM", "mistral");
  config["hidden_act"] = "silu";
  config["sliding_window"] = s.window > 0 ? json(s.window) : json();
  if (s.window > 0) config["layer_types"] = LayerTypes(s);
  return config;
}

std::vector<FamilyTensor> Tensors(const ArchitectureSpec& s) {
  return DecoderTensors(s, {.interleaved = true});
}

}  // namespace

Family MistralFamily() {
  return {"mistral", {"MistralForCausalLM"}, {}, &FromConfig, nullptr, &ToConfig,
          &Tensors,  &DecoderIgnored};
}

}  // namespace shiftadd
