// SentencePiece's precompiled character map ("precompiled_charsmap"): what its normalizer makes of
// characters and short sequences of them (nmt_nfkc, say), compiled into one string of bytes.
#ifndef SHIFTADD_WORKER_MODEL_CHARACTER_MAP_H_
#define SHIFTADD_WORKER_MODEL_CHARACTER_MAP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

// Immutable, thread-safe.
class CharacterMap {
 public:
  // `bytes`: the size of a double-array trie in bytes (32 bits, little-endian, as all that
  // follows), the trie in the layout of darts-clone (https://github.com/s-yata/darts-clone), and
  // the replacing texts, each with a NUL behind it, to which the trie's values point.
  // INVALID_ARGUMENT if it is none; a trie whose links lead nowhere is one that maps less.
  static absl::StatusOr<CharacterMap> Parse(absl::string_view bytes);

  // `text` is valid UTF-8. Replaces as Hugging Face's tokenizers does, which differs from
  // SentencePiece: grapheme clusters shorter than 6 bytes are looked up first, and the shortest
  // prefix of one that is in the map replaces all of it; the others go character by character.
  std::string Run(absl::string_view text) const;

 private:
  // What the shortest prefix of `key` that is in the map becomes.
  std::optional<absl::string_view> Find(absl::string_view key) const;

  std::vector<uint32_t> units_;
  std::string targets_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_CHARACTER_MAP_H_
