// A tokenizer.json, read and checked.
#ifndef SHIFTADD_WORKER_MODEL_TOKENIZER_DOCUMENT_H_
#define SHIFTADD_WORKER_MODEL_TOKENIZER_DOCUMENT_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/added_tokens.h"
#include "worker/model/normalizer.h"
#include "worker/model/pre_tokenizer.h"

namespace shiftadd {

// Byte-level BPE merges bytes, the other two characters; they write spaces as U+2581 as a rule.
enum class TokenizerKind { kByteLevelBpe, kBpe, kUnigram };

struct TokenizerDocument {
  TokenizerKind kind = TokenizerKind::kByteLevelBpe;
  std::vector<std::optional<std::string>> vocab;  // by id: the token's text; ids may be free
  std::vector<std::array<int32_t, 3>> merges;     // left, right, merged; earlier goes first
  bool ignore_merges = false;
  std::vector<double> scores;  // kUnigram: by id
  bool byte_fallback = false;  // tokens <0x00> to <0xFF> stand for bytes
  bool fuse_unknown = false;
  int32_t unknown = -1;
  std::vector<AddedToken> added;  // their texts stand in `vocab` too
  Normalizer normalizer;
  std::optional<PreTokenizer> pre_tokenizer;
  // Decoding of kinds other than byte-level: this is replaced in a token's text, in order; and a
  // space at the start of a text goes.
  std::vector<std::pair<std::string, std::string>> decoder_replace;
  bool decoder_strip = false;
  std::vector<int32_t> prefix, suffix;  // what the post-processor puts around a text
  std::optional<std::string> chat_template;
  int32_t bos = -1, eos = -1;  // eos: the first of them
};

// INVALID_ARGUMENT: what is wrong, by field. UNIMPLEMENTED: a construct that is not supported, by
// name.
absl::StatusOr<TokenizerDocument> ReadTokenizerDocument(absl::string_view text);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_TOKENIZER_DOCUMENT_H_
