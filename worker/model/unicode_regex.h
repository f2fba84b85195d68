// Regular expressions over UTF-8 with Unicode classes, as pre-tokenizers use them.
#ifndef SHIFTADD_WORKER_MODEL_UNICODE_REGEX_H_
#define SHIFTADD_WORKER_MODEL_UNICODE_REGEX_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

// Immutable, thread-safe.
class UnicodeRegex {
 public:
  // `pattern` is in Oniguruma's syntax as tokenizer.json has it; \s and \S mean Unicode's
  // White_Space there, which PCRE2's do not quite, and are rewritten, as are unions of classes.
  // INVALID_ARGUMENT if it does not compile.
  static absl::StatusOr<UnicodeRegex> Compile(const std::string& pattern);

  // Cuts `text` (valid UTF-8) into its matches and what lies between them, in order; nothing is
  // lost.
  void Split(absl::string_view text, std::vector<absl::string_view>* pieces) const;
  // `text` (valid UTF-8) with `to` for every match that is not empty.
  std::string Replace(absl::string_view text, absl::string_view to) const;

 private:
  struct Code;
  // Calls with the text between the last match and this one, and the match; with an empty match at
  // the end of the text.
  void ForEachMatch(
      absl::string_view text,
      const std::function<void(absl::string_view before, absl::string_view match)>& on_match) const;
  explicit UnicodeRegex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  std::shared_ptr<const Code> code_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_UNICODE_REGEX_H_
