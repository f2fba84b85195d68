// Generated tokens to text that may be shown: whole UTF-8 characters, nothing that may turn out to
// be a stop string.
#ifndef SHIFTADD_WORKER_SERVE_TEXT_STREAM_H_
#define SHIFTADD_WORKER_SERVE_TEXT_STREAM_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace shiftadd {

// Valid UTF-8: what is no character becomes U+FFFD, one for the start of a character that breaks
// off.
std::string ToValidUtf8(absl::string_view bytes);

// The length of what gives the first character of ToValidUtf8(bytes); `bytes` is not empty.
size_t FirstCharacter(absl::string_view bytes);

// Not thread-safe.
class TextStream {
 public:
  // Empty stop strings are ignored.
  explicit TextStream(std::vector<std::string> stop);

  // Adds bytes (they may end inside a character) and returns what can be shown now. After a stop
  // string has been found nothing more comes out; the stop string and what follows it are dropped.
  std::string Push(absl::string_view bytes);
  // The rest, once no more bytes come.
  std::string Finish();
  bool stopped() const { return stopped_; }

 private:
  // Where the earliest stop string begins, or npos.
  size_t FindStop() const;
  // The length of the longest end of `held_` that is the beginning of a stop string.
  size_t PossibleStop() const;

  std::vector<std::string> stop_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_TEXT_STREAM_H_
