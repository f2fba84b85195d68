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

// The "pre_tokenizer" of a tokenizer.json: ByteLevel, Digits, Split by a regular expression or a
// string, Metaspace, Sequence of them. Immutable, thread-safe.
class PreTokenizer {
 public:
  // Null: text is one word. UNIMPLEMENTED names a construct that is not supported.
  static absl::StatusOr<PreTokenizer> FromJson(const nlohmann::json& json);

  // Words stand in the byte-level alphabet's terms: they are bytes.
  bool byte_level() const { return byte_level_; }

  // Appends the words of `text` (valid UTF-8). Words refer to `text` or to `storage`. `first`:
  // nothing stands before `text`.
  void Split(absl::string_view text, std::deque<std::string>* storage,
             std::vector<absl::string_view>* words, bool first = true) const;

 private:
  enum class Prepend { kNever, kFirst, kAlways };
  struct Stage {
    bool prefix_space = false;  // each piece that starts without a space gets one, before splitting
    std::vector<UnicodeRegex> regex;  // none or one
    std::string space;  // Metaspace: stands for a space, and before pieces as `prepend` says
    Prepend prepend = Prepend::kNever;
    std::string delimiter;   // if not empty: cut there, and it goes
    bool with_next = false;  // to the piece behind it, or else to the one before
  };
  absl::Status AddMetaspace(const nlohmann::json& json, Stage* stage);
  absl::Status Add(const nlohmann::json& json, int depth);

  std::vector<Stage> stages_;
  bool byte_level_ = false;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_PRE_TOKENIZER_H_
