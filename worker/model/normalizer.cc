#include "worker/model/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/base/status_macros.h"
#include "worker/model/utf8.h"

namespace shiftadd {
namespace {

using nlohmann::json;

absl::Status Unsupported(const json& found) {
  return absl::UnimplementedError(
      absl::StrCat("tokenizer: normalizer ", found.dump().substr(0, 120),
                   " is not supported, supported: NFC, NFD, NFKC, NFKD, Precompiled, Prepend, "
                   "Replace, Strip, Sequence, none"));
}

// A Unicode normal form of valid UTF-8; the text itself if it cannot be computed.
std::string NormalForm(absl::string_view text, int form) {
  utf8proc_uint8_t* result = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | form);
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &result, options);
  if (size < 0) return std::string(text);
  std::string out(reinterpret_cast<const char*>(result), static_cast<size_t>(size));
  std::free(result);
  return out;
}

absl::StatusOr<std::string> Text(const json& object, const char* name) {
  const json value = object.value(name, json());
  if (value.is_string()) return value.get<std::string>();
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer: normalizer: '", name, "' is missing or not a string"));
}

absl::StatusOr<std::shared_ptr<const CharacterMap>> ReadMap(const json& object) {
  SA_ASSIGN_OR_RETURN(const std::string text, Text(object, "precompiled_charsmap"));
  std::string bytes;
  if (!absl::Base64Unescape(text, &bytes)) {
    return absl::InvalidArgumentError(
        "tokenizer: normalizer: 'precompiled_charsmap' is not in base64");
  }
  auto map = CharacterMap::Parse(bytes);
  if (!map.ok()) return Annotate(map.status(), "tokenizer: normalizer");
  return std::make_shared<const CharacterMap>(*std::move(map));
}

std::string Stripped(absl::string_view text, bool left, bool right) {
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    const size_t n = WhiteSpaceAt(text, begin);
    if (n == 0) break;
    begin += n;
  }
  while (right && end > begin) {
    size_t last = end - 1;
    while (last > begin && (static_cast<unsigned char>(text[last]) & 0xc0) == 0x80) --last;
    if (WhiteSpaceAt(text, last) == 0) break;
    end = last;
  }
  return std::string(text.substr(begin, end - begin));
}

}  // namespace

absl::StatusOr<Normalizer> Normalizer::FromJson(const json& json) {
  Normalizer out;
  SA_RETURN_IF_ERROR(out.Add(json, 0));
  return out;
}

absl::Status Normalizer::Add(const json& object, int depth) {
  if (object.is_null()) return absl::OkStatus();
  const json type = object.is_object() ? object.value("type", json()) : json();
  if (type == "Sequence" && depth < 4) {
    const json list = object.value("normalizers", json());
    if (!list.is_array()) return Unsupported(object);
    for (const json& item : list) SA_RETURN_IF_ERROR(Add(item, depth + 1));
    return absl::OkStatus();
  }
  Step step{Kind::kNfc, "", ""};
  if (type == "NFD") {
    step.kind = Kind::kNfd;
  } else if (type == "NFKC") {
    step.kind = Kind::kNfkc;
  } else if (type == "NFKD") {
    step.kind = Kind::kNfkd;
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    SA_ASSIGN_OR_RETURN(step.to, Text(object, "prepend"));
  } else if (type == "Precompiled") {
    step.kind = Kind::kMap;
    SA_ASSIGN_OR_RETURN(step.map, ReadMap(object));
  } else if (type == "Replace") {
    SA_ASSIGN_OR_RETURN(step, ReadReplace(object));
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    step.left = object.value("strip_left", json()) == true;
    step.right = object.value("strip_right", json()) == true;
  } else if (type != "NFC") {
    return Unsupported(object);
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<Normalizer::Step> Normalizer::ReadReplace(const json& object) {
  Step step{Kind::kReplace, "", ""};
  const json pattern = object.value("pattern", json());
  SA_ASSIGN_OR_RETURN(step.to, Text(object, "content"));
  if (pattern.is_object() && pattern.contains("Regex")) {
    step.kind = Kind::kReplaceRegex;
    SA_ASSIGN_OR_RETURN(const std::string expression, Text(pattern, "Regex"));
    auto regex = UnicodeRegex::Compile(expression);
    if (!regex.ok()) return Annotate(regex.status(), "tokenizer: normalizer");
    step.regex = *std::move(regex);
    return step;
  }
  if (!pattern.is_object() || !pattern.contains("String")) return Unsupported(object);
  SA_ASSIGN_OR_RETURN(step.from, Text(pattern, "String"));
  if (step.from.empty()) return Unsupported(object);
  return step;
}

std::string Normalizer::Run(absl::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kNfc:
        out = NormalForm(out, UTF8PROC_COMPOSE);
        break;
      case Kind::kNfd:
        out = NormalForm(out, UTF8PROC_DECOMPOSE);
        break;
      case Kind::kNfkc:
        out = NormalForm(out, UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
        break;
      case Kind::kNfkd:
        out = NormalForm(out, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
        break;
      case Kind::kMap:
        out = step.map->Run(out);
        break;
      case Kind::kPrepend:
        if (!out.empty()) out.insert(0, step.to);
        break;
      case Kind::kReplace:
        out = absl::StrReplaceAll(out, {{step.from, step.to}});
        break;
      case Kind::kReplaceRegex:
        out = step.regex->Replace(out, step.to);
        break;
      case Kind::kStrip:
        out = Stripped(out, step.left, step.right);
        break;
    }
  }
  return out;
}

}  // namespace shiftadd
