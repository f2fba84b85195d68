// A vocabulary of SentencePiece, as tokenizer.model and GGUF files hold it, and the tokenizer.json
// that says the same.
#ifndef SHIFTADD_WORKER_MODEL_SENTENCEPIECE_MODEL_H_
#define SHIFTADD_WORKER_MODEL_SENTENCEPIECE_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace shiftadd {

// The numbers are SentencePiece's own, and GGUF's.
enum class PieceType : int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

struct SentencePieceModel {
  struct Piece {
    std::string text;
    float score = 0;
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces;  // by id
  bool bpe = true;            // or Unigram
  bool add_space_prefix = true;
  std::string character_map;  // precompiled_charsmap; empty: characters stay as they are
  bool folds_spaces = false;  // remove_extra_whitespaces
};

// Reads a tokenizer.model. INVALID_ARGUMENT: it is none; UNIMPLEMENTED: kinds of models other than
// BPE and Unigram, or spaces that are not escaped. Errors begin with `file`.
absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(absl::string_view bytes,
                                                           const std::string& file);

// The tokenizer.json of the model, without a post-processor and without "shiftadd". BPE's merges
// are every cut of a piece into two pieces, the highest score first, as transformers derives them.
// A model that changes characters or folds spaces becomes what transformers' SpmConverter makes of
// it; the others stay in the form of LLaMA's.
// INVALID_ARGUMENT names a piece that stands twice. Errors begin with `file`.
absl::StatusOr<nlohmann::json> SentencePieceTokenizerJson(const SentencePieceModel& model,
                                                          const std::string& file);

// A post-processor that puts token `bos` before a text.
nlohmann::json BosTemplate(const std::string& bos, int64_t id);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_SENTENCEPIECE_MODEL_H_
