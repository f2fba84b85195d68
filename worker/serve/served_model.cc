#include "worker/serve/served_model.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "nlohmann/json.hpp"
#include "worker/serve/engine.h"

namespace shiftadd {
namespace {

// A token's text: a string, an id, or Hugging Face's object with "content".
std::string TokenText(const nlohmann::json& value, const Tokenizer& tokenizer) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content")) return TokenText(value["content"], tokenizer);
  if (value.is_number_integer()) {
    const int64_t id = value.get<int64_t>();
    if (id >= 0 && id < tokenizer.vocab_size()) {
      return tokenizer.Decode({static_cast<int32_t>(id)}, false);
    }
  }
  return "";
}

}  // namespace

TokenizerInfo ReadTokenizerInfo(const std::string& tokenizer_json, const Tokenizer& tokenizer,
                                const ArchitectureSpec& spec) {
  TokenizerInfo info;
  const auto json = nlohmann::json::parse(tokenizer_json, nullptr, false);
  nlohmann::json ours = nlohmann::json::object();
  if (json.is_object() && json.contains("shiftadd") && json["shiftadd"].is_object()) {
    ours = json["shiftadd"];
  }
  const auto text = [&](const char* key, int64_t id) {
    std::string found = ours.contains(key) ? TokenText(ours[key], tokenizer) : "";
    return found.empty() ? TokenText(id, tokenizer) : found;
  };
  info.eos = text("eos", spec.eos_tokens.empty() ? -1 : spec.eos_tokens[0]);
  info.bos = text("bos", spec.bos_token);
  info.pad = text("pad", -1);
  if (ours.contains("chat_template") && ours["chat_template"].is_string()) {
    info.chat_template = ours["chat_template"].get<std::string>();
  }
  return info;
}

bool IsNameOf(absl::string_view asked, absl::string_view reference) {
  if (asked == reference) return true;
  const size_t end = std::min(reference.find('@'), reference.rfind(':'));
  return end != absl::string_view::npos && asked == reference.substr(0, end);
}

absl::StatusOr<std::vector<int32_t>> ServedModel::Encode(absl::string_view text,
                                                         bool add_special) const {
  // Encoding megabytes to find that they do not fit would take minutes.
  const int64_t at_least = static_cast<int64_t>(text.size()) / std::max<int64_t>(longest_token, 1);
  if (at_least > context) return ContextExceeded(at_least, context);
  return tokenizer->Encode(text, add_special, /*parse_special=*/true);
}

int64_t LongestToken(const Tokenizer& tokenizer) {
  size_t longest = 1;
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
    longest = std::max(longest, tokenizer.Decode({static_cast<int32_t>(id)}, false).size());
  }
  return static_cast<int64_t>(longest);
}

}  // namespace shiftadd
