#include "worker/model/gguf_metadata.h"

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "worker/tensor/json_text.h"

namespace shiftadd {
namespace {

double ShortestDecimal(float value) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof(text) - 1, value);
  *end = '\0';
  return error == std::errc() ? std::strtod(text, nullptr) : static_cast<double>(value);
}

// Of an architecture: names, what other architectures' norms would read, what is said twice.
const std::set<std::string>& SayNothing() {
  static const auto* const names = new std::set<std::string>{
      "attention.layer_norm_epsilon", "mm.tokens_per_image", "rope.scaling.finetuned",
      "rope.scaling.original_context_length", "tensor_data_layout"};
  return *names;
}

bool IsOff(const nlohmann::json& value) {
  if (value.is_number()) return value == 0;
  if (!value.is_string()) return value.is_null() || value == false;
  const auto& text = value.get_ref<const std::string&>();
  return text.empty() || text == "none";
}

}  // namespace

const nlohmann::json* GgufMetadata::Find(const std::string& key) const {
  read_.insert(key);
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &*it;
}

absl::Status GgufMetadata::RefuseUnread(const std::string& prefix) const {
  for (const auto& [key, value] : metadata_.items()) {
    if (!absl::StartsWith(key, prefix) || read_.count(key) > 0) continue;
    const std::string name = key.substr(prefix.size());
    const bool harmless =
        name == "attention.causal" ? value == true : IsOff(value) || SayNothing().count(name) > 0;
    if (harmless) continue;
    return absl::UnimplementedError(absl::StrCat(
        file_, ": metadata '", key, "' is ",
        value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).substr(0, 80),
        ": not known, and it may change the arithmetic"));
  }
  return absl::OkStatus();
}

absl::Status GgufMetadata::Fault(const std::string& key, absl::string_view expected) const {
  const nlohmann::json* value = Find(key);
  std::string found = "missing";
  if (value != nullptr) {
    found =
        value->is_array()
            ? absl::StrCat("an array of ", value->size())
            : value->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).substr(0, 80);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(file_, ": metadata '", key, "' is ", found, ", expected ", expected));
}

absl::StatusOr<int64_t> GgufMetadata::Int(const std::string& key,
                                          std::optional<int64_t> fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  const bool good =
      value != nullptr && value->is_number_integer() &&
      !(value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
  if (!good) return Fault(key, "an integer");
  return value->get<int64_t>();
}

absl::StatusOr<double> GgufMetadata::Real(const std::string& key,
                                          std::optional<double> fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  if (value == nullptr || !value->is_number() || !std::isfinite(value->get<double>())) {
    return Fault(key, "a finite number");
  }
  return ShortestDecimal(value->get<float>());
}

absl::StatusOr<bool> GgufMetadata::Bool(const std::string& key, bool fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return Fault(key, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> GgufMetadata::String(const std::string& key,
                                                 std::optional<std::string> fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  if (value == nullptr || !value->is_string() ||
      !IsValidUtf8(value->get_ref<const std::string&>())) {
    return Fault(key, "a string in UTF-8");
  }
  return value->get<std::string>();
}

absl::StatusOr<std::vector<std::string>> GgufMetadata::Strings(const std::string& key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr || !value->is_array()) return Fault(key, "an array of strings");
  std::vector<std::string> out;
  out.reserve(value->size());
  for (const nlohmann::json& item : *value) {
    if (!item.is_string() || !IsValidUtf8(item.get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(absl::StrCat(file_, ": metadata '", key, "': entry ",
                                                     out.size(), " is not a string in UTF-8"));
    }
    out.push_back(item.get<std::string>());
  }
  return out;
}

}  // namespace shiftadd
