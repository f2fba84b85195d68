#include "worker/tensor/json_text.h"

#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "services/base/json_depth.h"

namespace shiftadd {
namespace {

constexpr int kMaxDepth = 64;

// nlohmann's messages start with "[json.exception.parse_error.101] ".
std::string Reason(const std::exception& e) {
  const std::string text = e.what();
  const size_t end = text.find("] ");
  return end == std::string::npos ? text : text.substr(end + 2);
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, const std::string& what) {
  if (JsonDepth(text) > kMaxDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": JSON is nested deeper than ", kMaxDepth, " levels"));
  }
  std::vector<std::set<std::string>> keys;
  std::string twice;
  const auto watch = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second &&
        twice.empty()) {
      twice = parsed.get<std::string>();
    }
    return true;
  };
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(text.begin(), text.end(), watch);
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": is not JSON: ", Reason(e)));
  }
  if (!twice.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": key '", twice, "' stands twice in one object"));
  }
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": is JSON of type ", json.type_name(), ", expected an object"));
  }
  return json;
}

bool IsValidUtf8(absl::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    const int length = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c >= 0x80 && (c < 0xc2 || c > 0xf4)) return false;
    if (i + length > text.size()) return false;
    uint32_t point = length == 1 ? c : c & (0x7f >> length);
    for (int k = 1; k < length; ++k) {
      const unsigned char next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      point = (point << 6) | (next & 0x3f);
    }
    if (length == 3 && (point < 0x800 || (point >= 0xd800 && point < 0xe000))) return false;
    if (length == 4 && (point < 0x10000 || point > 0x10ffff)) return false;
    i += length;
  }
  return true;
}

}  // namespace shiftadd
