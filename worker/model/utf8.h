// UTF-8 that may be broken.
#ifndef SHIFTADD_WORKER_MODEL_UTF8_H_
#define SHIFTADD_WORKER_MODEL_UTF8_H_

#include <functional>
#include <string>

#include "absl/strings/string_view.h"

namespace shiftadd {

// The length of the character that starts at `at`, or 0 if the bytes there are not one (surrogates
// and overlong forms are none). *incomplete: the text ends inside what may yet become a character.
size_t Utf8CharacterAt(absl::string_view text, size_t at, bool* incomplete);

// The length of the character of Unicode's White_Space that starts at `at` of valid UTF-8, or 0.
size_t WhiteSpaceAt(absl::string_view text, size_t at);

// Calls back with longest runs of whole characters (valid) and with single bytes that belong to
// none (not valid), in order.
void ForEachUtf8Run(absl::string_view text,
                    const std::function<void(absl::string_view run, bool valid)>& on_run);

// `text` with U+FFFD for every byte that belongs to no character. What goes into a message of
// protobuf or JSON must be UTF-8; what a damaged file holds need not be.
std::string ReplaceInvalidUtf8(absl::string_view text);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_UTF8_H_
