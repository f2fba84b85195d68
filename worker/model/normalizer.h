// What a tokenizer does to text before it is cut into words.
#ifndef SHIFTADD_WORKER_MODEL_NORMALIZER_H_
#define SHIFTADD_WORKER_MODEL_NORMALIZER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "worker/model/character_map.h"
#include "worker/model/unicode_regex.h"

namespace shiftadd {

// The "normalizer" of a tokenizer.json: NFC, NFD, NFKC, NFKD, Precompiled, Prepend, Replace of a
// string or of what an expression matches, Strip, Sequence of them. Immutable, thread-safe.
class Normalizer {
 public:
  // Null: changes nothing. UNIMPLEMENTED names a construct that is not supported.
  static absl::StatusOr<Normalizer> FromJson(const nlohmann::json& json);

  bool empty() const { return steps_.empty(); }
  // `text` is valid UTF-8.
  std::string Run(absl::string_view text) const;

 private:
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kMap, kPrepend, kReplace, kReplaceRegex, kStrip };
  struct Step {
    Kind kind;
    std::string from, to;                               // kReplace both, kPrepend `to`
    bool left = false, right = false;                   // kStrip
    std::shared_ptr<const CharacterMap> map = nullptr;  // kMap
    std::optional<UnicodeRegex> regex = std::nullopt;   // kReplaceRegex
  };
  static absl::StatusOr<Step> ReadReplace(const nlohmann::json& json);
  absl::Status Add(const nlohmann::json& json, int depth);

  std::vector<Step> steps_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_NORMALIZER_H_
