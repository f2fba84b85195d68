// GPT-2's alphabet: every byte has a printable character, so that a vocabulary is text.
#ifndef SHIFTADD_WORKER_MODEL_BYTE_LEVEL_H_
#define SHIFTADD_WORKER_MODEL_BYTE_LEVEL_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace shiftadd {

// The code point (below 324) that stands for a byte.
uint32_t ByteToPoint(uint8_t byte);

// Appends a code point as UTF-8.
void AppendUtf8(uint32_t point, std::string* out);

// "ab c" -> "abĠc".
std::string BytesToText(absl::string_view bytes);

// The inverse. False if a character stands for no byte; then `bytes` is unspecified.
bool TextToBytes(absl::string_view text, std::string* bytes);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_BYTE_LEVEL_H_
