#include "worker/serve/text_stream.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "worker/model/tokenizer.h"

namespace shiftadd {
namespace {

// The length of the character at the start of `s`, or, if *valid is false, of what to replace
// there: the longest start of a character, or one byte (Unicode 15, table 3-8: what most decoders
// do, so a client that decodes token bytes itself gets the same text).
size_t CharacterOrFault(absl::string_view s, bool* valid) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
  const uint8_t first = byte(0);
  *valid = true;
  if (first < 0x80) return 1;
  size_t length = 0;
  uint8_t low = 0x80,
          high = 0xbf;  // of the second byte: no overlong form, no surrogate, at most U+10FFFF
  if (first >= 0xc2 && first <= 0xdf) length = 2;
  if (first >= 0xe0 && first <= 0xef) length = 3;
  if (first >= 0xf0 && first <= 0xf4) length = 4;
  if (first == 0xe0) low = 0xa0;
  if (first == 0xed) high = 0x9f;
  if (first == 0xf0) low = 0x90;
  if (first == 0xf4) high = 0x8f;
  size_t good = 1;
  while (good < length && good < s.size() && byte(good) >= low && byte(good) <= high) {
    ++good;
    low = 0x80;
    high = 0xbf;
  }
  *valid = length > 0 && good == length;
  return good;
}

}  // namespace

std::string ToValidUtf8(absl::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    bool valid = false;
    const size_t n = CharacterOrFault(bytes, &valid);
    if (valid) {
      out.append(bytes.data(), n);
    } else {
      out += "\xef\xbf\xbd";
    }
    bytes.remove_prefix(n);
  }
  return out;
}

size_t FirstCharacter(absl::string_view bytes) {
  bool valid = false;
  return CharacterOrFault(bytes, &valid);
}

TextStream::TextStream(std::vector<std::string> stop) : stop_(std::move(stop)) {
  std::erase_if(stop_, [](const std::string& s) { return s.empty(); });
}

size_t TextStream::FindStop() const {
  size_t first = std::string::npos;
  for (const std::string& s : stop_) first = std::min(first, held_.find(s));
  return first;
}

size_t TextStream::PossibleStop() const {
  size_t longest = 0;
  for (const std::string& s : stop_) {
    for (size_t n = std::min(s.size() - 1, held_.size()); n > longest; --n) {
      if (held_.compare(held_.size() - n, n, s, 0, n) == 0) longest = n;
    }
  }
  return longest;
}

std::string TextStream::Push(absl::string_view bytes) {
  if (stopped_) return "";
  held_.append(bytes.data(), bytes.size());
  if (const size_t at = FindStop(); at != std::string::npos) {
    stopped_ = true;
    held_.resize(at);
    return ToValidUtf8(std::exchange(held_, ""));
  }
  const absl::string_view free(held_.data(), held_.size() - PossibleStop());
  const size_t ready = CompleteUtf8Prefix(free);
  std::string out = ToValidUtf8(free.substr(0, ready));
  held_.erase(0, ready);
  return out;
}

std::string TextStream::Finish() {
  if (stopped_) return "";
  return ToValidUtf8(std::exchange(held_, ""));
}

}  // namespace shiftadd
