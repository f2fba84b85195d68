#include "worker/serve/text_stream.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "worker/model/tokenizer.h"

namespace shiftadd {
namespace {

// The length of the valid character at the start of `s`, or 0.
size_t ValidCharacter(absl::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
  const uint8_t first = byte(0);
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
  if (length == 0 || s.size() < length || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xbf) return 0;
  }
  return length;
}

}  // namespace

std::string ToValidUtf8(absl::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t n = ValidCharacter(bytes);
    if (n == 0) {
      out += "\xef\xbf\xbd";
      bytes.remove_prefix(1);
    } else {
      out.append(bytes.data(), n);
      bytes.remove_prefix(n);
    }
  }
  return out;
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
