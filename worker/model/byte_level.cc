#include "worker/model/byte_level.h"

#include <array>

namespace shiftadd {
namespace {

constexpr uint32_t kPoints = 324;  // 256 + the 68 bytes that are not printable

struct Alphabet {
  std::array<uint32_t, 256> point;
  std::array<int16_t, kPoints> byte;  // -1: none

  Alphabet() {
    byte.fill(-1);
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable =
          (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
      point[b] = printable ? b : next++;
      byte[point[b]] = static_cast<int16_t>(b);
    }
  }
};

const Alphabet& Table() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

uint32_t ByteToPoint(uint8_t byte) { return Table().point[byte]; }

void AppendUtf8(uint32_t point, std::string* out) {
  const auto tail = [&](int shift) {
    out->push_back(static_cast<char>(0x80 | ((point >> shift) & 0x3f)));
  };
  if (point < 0x80) {
    out->push_back(static_cast<char>(point));
  } else if (point < 0x800) {
    out->push_back(static_cast<char>(0xc0 | (point >> 6)));
    tail(0);
  } else if (point < 0x10000) {
    out->push_back(static_cast<char>(0xe0 | (point >> 12)));
    tail(6);
    tail(0);
  } else {
    out->push_back(static_cast<char>(0xf0 | (point >> 18)));
    tail(12);
    tail(6);
    tail(0);
  }
}

std::string BytesToText(absl::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (char c : bytes) AppendUtf8(ByteToPoint(static_cast<uint8_t>(c)), &text);
  return text;
}

bool TextToBytes(absl::string_view text, std::string* bytes) {
  bytes->clear();
  for (size_t i = 0; i < text.size(); ++i) {
    uint32_t point = static_cast<uint8_t>(text[i]);
    if (point >= 0x80) {  // the alphabet ends below U+0800: two bytes at most
      if ((point & 0xe0) != 0xc0 || i + 1 >= text.size()) return false;
      point = ((point & 0x1f) << 6) | (static_cast<uint8_t>(text[++i]) & 0x3f);
    }
    if (point >= kPoints || Table().byte[point] < 0) return false;
    bytes->push_back(static_cast<char>(Table().byte[point]));
  }
  return true;
}

}  // namespace shiftadd
