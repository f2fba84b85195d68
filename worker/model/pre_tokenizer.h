// Cuts text into the words that BPE merges inside of.
#ifndef SHIFTADD_WORKER_MODEL_PRE_TOKENIZER_H_
#define SHIFTADD_WORKER_MODEL_PRE_TOKENIZER_H_

#include <deque>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "worker/model/unicode_regex.h"

namespace shiftadd {

// The "pre_tokenizer" of a tokenizer.json: ByteLevel, Digits, Split by a regular expression,
// Sequence of them. Immutable, thread-safe.
class PreTokenizer {
 public:
  // UNIMPLEMENTED names a construct that is not supported. There must be a ByteLevel.
  static absl::StatusOr<PreTokenizer> FromJson(const nlohmann::json& json);

  // Appends the words of `text` (valid UTF-8). Words refer to `text` or to `storage`.
  void Split(absl::string_view text, std::deque<std::string>* storage,
             std::vector<absl::string_view>* words) const;

 private:
  struct Stage {
    bool prefix_space = false;  // each piece that starts without a space gets one, before splitting
    std::vector<UnicodeRegex> regex;  // none or one
  };
  absl::Status Add(const nlohmann::json& json, int depth);

  std::vector<Stage> stages_;
  bool byte_level_ = false;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_PRE_TOKENIZER_H_
