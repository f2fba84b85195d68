#include "worker/model/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
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

// No character of Unicode becomes more, by compatibility too.
constexpr size_t kLongestDecomposition = 32;

int CombiningClass(utf8proc_int32_t point) {
  return static_cast<int>(utf8proc_get_property(point)->combining_class);
}

// Puts marks in a row in the order of their classes. utf8proc_map, which would do it too, takes
// time that grows with the square of their number: hours for a megabyte.
void OrderMarks(std::vector<utf8proc_int32_t>* points) {
  const auto is_mark = [](utf8proc_int32_t point) { return CombiningClass(point) > 0; };
  for (auto begin = points->begin(); begin != points->end();) {
    begin = std::find_if(begin, points->end(), is_mark);
    const auto end = std::find_if_not(begin, points->end(), is_mark);
    std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return CombiningClass(a) < CombiningClass(b);
    });
    begin = end;
  }
}

// Puts a starter together with what follows it, where there is a character for both. False: cannot.
bool Compose(std::vector<utf8proc_int32_t>* points) {
  // utf8proc 2.8.0 takes U+11A7, one before the first trailing consonant of Hangul, for such a
  // consonant, and a syllable swallows it. It composes with nothing, before or behind it: what
  // stands between two of them is composed by itself.
  constexpr utf8proc_int32_t kBeforeTrailing = 0x11a7;
  constexpr auto kComposed = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  auto out = points->begin();
  for (auto begin = points->begin(); begin != points->end();) {
    const auto end = std::find(begin, points->end(), kBeforeTrailing);
    const utf8proc_ssize_t size =
        utf8proc_normalize_utf32(&*begin, static_cast<utf8proc_ssize_t>(end - begin), kComposed);
    if (size < 0) return false;
    out = std::copy_n(begin, size, out);
    begin = end;
    if (begin != points->end()) *out++ = *begin++;
  }
  points->erase(out, points->end());
  return true;
}

bool IsAscii(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), absl::ascii_isascii);
}

// A Unicode normal form of valid UTF-8; the text itself if it cannot be computed.
std::string NormalForm(absl::string_view text, int form) {
  if (IsAscii(text)) return std::string(text);
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | form);
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size() + 1);
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t point = 0, parts[kLongestDecomposition];
    const utf8proc_ssize_t size =
        utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                         static_cast<utf8proc_ssize_t>(text.size() - at), &point);
    if (size <= 0) return std::string(text);
    at += static_cast<size_t>(size);
    int unused = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(point, parts, kLongestDecomposition, options, &unused);
    if (count < 0 || count > static_cast<utf8proc_ssize_t>(kLongestDecomposition)) {
      return std::string(text);
    }
    points.insert(points.end(), parts, parts + count);
  }
  OrderMarks(&points);
  if ((form & UTF8PROC_COMPOSE) != 0 && !Compose(&points)) return std::string(text);
  const auto length = static_cast<utf8proc_ssize_t>(points.size());
  points.push_back(0);  // room for the end of what comes in its place, as UTF-8
  const utf8proc_ssize_t size = utf8proc_reencode(points.data(), length, UTF8PROC_STABLE);
  if (size < 0) return std::string(text);
  return std::string(reinterpret_cast<const char*>(points.data()), static_cast<size_t>(size));
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
