#include "services/base/printable.h"

#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {

unsigned char ByteAt(absl::string_view text, size_t at) {
  return static_cast<unsigned char>(text[at]);
}

// Bytes of the control character that begins at `at`, or 0. U+0080 to U+009F are C2 80 to C2 9F.
size_t ControlAt(absl::string_view text, size_t at) {
  const unsigned char byte = ByteAt(text, at);
  if (byte < 0x20 || byte == 0x7F) return 1;
  if (byte != 0xC2 || at + 1 == text.size()) return 0;
  const unsigned char next = ByteAt(text, at + 1);
  return next >= 0x80 && next <= 0x9F ? 2 : 0;
}

}  // namespace

bool HasControls(absl::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (ControlAt(text, i) > 0) return true;
  }
  return false;
}

std::string EscapeControls(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t bytes = ControlAt(text, i);
    if (bytes == 0) {
      out += text[i];
      continue;
    }
    i += bytes - 1;
    if (text[i] == '\n') {
      out += "\\n";
    } else if (text[i] == '\t') {
      out += "\\t";
    } else {
      absl::StrAppend(&out, "\\x", absl::Hex(ByteAt(text, i), absl::kZeroPad2));
    }
  }
  return out;
}

std::string Shortened(absl::string_view text, size_t most) {
  if (text.size() <= most) return std::string(text);
  // Back to where a character begins.
  while (most > 0 && (ByteAt(text, most) & 0xC0) == 0x80) --most;
  return absl::StrCat(text.substr(0, most), "…");
}

}  // namespace shiftadd
