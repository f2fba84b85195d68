#include "worker/model/character_map.h"

#include <utf8proc.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "worker/tensor/json_text.h"

namespace shiftadd {
namespace {

// A longer cluster goes character by character.
constexpr size_t kLongestCluster = 5;
// Of a replacing text. Those of Unicode's compatibility mappings have 33 bytes at most; a bad file
// must not make a long text of every character.
constexpr size_t kLongestTarget = 1024;
constexpr size_t kUnit = sizeof(uint32_t);

// A unit of the trie: bits 0 to 7 and 31 a label, bit 8 whether a value hangs on it, bit 9 whether
// its offset, the bits from 10 on, is in steps of 256.
size_t Offset(uint32_t unit) { return static_cast<size_t>(unit >> 10) << ((unit & 0x200) >> 6); }
uint32_t Label(uint32_t unit) { return unit & 0x800000ff; }
bool HasValue(uint32_t unit) { return (unit & 0x100) != 0; }
size_t Value(uint32_t unit) { return unit & 0x7fffffff; }

uint32_t Load(absl::string_view bytes, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, kUnit);  // a little-endian machine, as everywhere here
  return value;
}

size_t CharacterEnd(absl::string_view text, size_t at, utf8proc_int32_t* character) {
  const utf8proc_ssize_t size =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                       static_cast<utf8proc_ssize_t>(text.size() - at), character);
  return at + (size > 0 ? static_cast<size_t>(size) : 1);
}

// Where the grapheme cluster that starts at `at` ends.
size_t ClusterEnd(absl::string_view text, size_t at) {
  utf8proc_int32_t left = 0, right = 0, state = 0;
  size_t end = CharacterEnd(text, at, &left);
  while (end < text.size()) {
    const size_t next = CharacterEnd(text, end, &right);
    if (utf8proc_grapheme_break_stateful(left, right, &state)) break;
    left = right;
    end = next;
  }
  return end;
}

}  // namespace

absl::StatusOr<CharacterMap> CharacterMap::Parse(absl::string_view bytes) {
  const auto invalid = [](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("precompiled_charsmap: ", what));
  };
  if (bytes.size() < kUnit) return invalid("found less than the size of a trie");
  const size_t size = Load(bytes, 0);
  bytes.remove_prefix(kUnit);
  if (size < kUnit || size % kUnit != 0 || size > bytes.size()) {
    return invalid(absl::StrCat("a trie of ", size, " bytes, expected a multiple of 4 from 4 to ",
                                bytes.size()));
  }
  CharacterMap map;
  map.units_.reserve(size / kUnit);
  for (size_t i = 0; i < size; i += kUnit) map.units_.push_back(Load(bytes, i));
  map.targets_ = std::string(bytes.substr(size));
  if (!IsValidUtf8(map.targets_)) return invalid("the replacing texts are not UTF-8");
  for (const absl::string_view target : absl::StrSplit(map.targets_, '\0')) {
    if (target.size() <= kLongestTarget) continue;
    return invalid(absl::StrCat("a replacing text of ", target.size(), " bytes, expected ",
                                kLongestTarget, " at most"));
  }
  return map;
}

std::optional<absl::string_view> CharacterMap::Find(absl::string_view key) const {
  size_t at = Offset(units_[0]);
  for (const char c : key) {
    const uint8_t byte = static_cast<uint8_t>(c);
    at ^= byte;
    if (byte == 0 || at >= units_.size() || Label(units_[at]) != byte) return std::nullopt;
    const uint32_t unit = units_[at];
    at ^= Offset(unit);
    if (!HasValue(unit)) continue;
    if (at >= units_.size() || Value(units_[at]) >= targets_.size()) return std::nullopt;
    const absl::string_view target = absl::string_view(targets_).substr(Value(units_[at]));
    return target.substr(0, target.find('\0'));
  }
  return std::nullopt;
}

std::string CharacterMap::Run(absl::string_view text) const {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t end = ClusterEnd(text, at);
    if (end - at <= kLongestCluster) {
      if (const auto target = Find(text.substr(at, end - at)); target.has_value()) {
        out.append(target->data(), target->size());
        at = end;
        continue;
      }
    }
    while (at < end) {
      utf8proc_int32_t character = 0;
      const size_t next = CharacterEnd(text, at, &character);
      const absl::string_view one = text.substr(at, next - at);
      const absl::string_view target = Find(one).value_or(one);
      out.append(target.data(), target.size());
      at = next;
    }
  }
  return out;
}

}  // namespace shiftadd
