#include "worker/model/utf8.h"

#include <algorithm>
#include <cstdint>

#include "worker/model/tokenizer.h"

namespace shiftadd {

size_t Utf8CharacterAt(absl::string_view text, size_t at, bool* incomplete) {
  *incomplete = false;
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(at);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte's range keeps out overlong forms, surrogates and what lies past U+10FFFF.
  const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (size_t k = 1; k < length; ++k) {
    if (at + k >= text.size()) {
      *incomplete = true;
      return 0;
    }
    const uint8_t b = byte(at + k);
    if (b < (k == 1 ? low : 0x80) || b > (k == 1 ? high : 0xbf)) return 0;
  }
  return length;
}

size_t WhiteSpaceAt(absl::string_view text, size_t at) {
  const uint8_t lead = static_cast<uint8_t>(text[at]);
  if (lead == ' ' || (lead >= 0x09 && lead <= 0x0d)) return 1;
  if (lead < 0x80) return 0;
  static const char* const kSpaces[] = {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001",
                                        "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
                                        "\u2007", "\u2008", "\u2009", "\u200a", "\u2028",
                                        "\u2029", "\u202f", "\u205f", "\u3000"};
  for (const char* space : kSpaces) {
    const absl::string_view one(space);
    if (text.substr(at, one.size()) == one) return one.size();
  }
  return 0;
}

void ForEachUtf8Run(absl::string_view text,
                    const std::function<void(absl::string_view, bool)>& on_run) {
  size_t start = 0, i = 0;
  bool incomplete = false;
  while (i < text.size()) {
    const size_t length = Utf8CharacterAt(text, i, &incomplete);
    if (length > 0) {
      i += length;
      continue;
    }
    if (i > start) on_run(text.substr(start, i - start), true);
    on_run(text.substr(i, 1), false);
    start = ++i;
  }
  if (i > start) on_run(text.substr(start), true);
}

std::string ReplaceInvalidUtf8(absl::string_view text) {
  std::string out;
  ForEachUtf8Run(text, [&out](absl::string_view run, bool valid) {
    if (valid) {
      out.append(run.data(), run.size());
    } else {
      out += "\uFFFD";
    }
  });
  return out;
}

size_t CompleteUtf8Prefix(absl::string_view bytes) {
  const size_t first = bytes.size() - std::min<size_t>(3, bytes.size());
  for (size_t i = first; i < bytes.size(); ++i) {
    bool incomplete = false;
    Utf8CharacterAt(bytes, i, &incomplete);
    if (incomplete) return i;
  }
  return bytes.size();
}

}  // namespace shiftadd
