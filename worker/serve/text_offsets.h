// Where the tokens of a completion stand in its text: the text_offset of the legacy
// log-probabilities.
#ifndef SHIFTADD_WORKER_SERVE_TEXT_OFFSETS_H_
#define SHIFTADD_WORKER_SERVE_TEXT_OFFSETS_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "worker/model/tokenizer.h"

namespace shiftadd {

// Offsets count characters of the text as the client gets it (ToValidUtf8). A token that begins
// inside a character has that character's offset. What is not in the text takes no room: a special
// token that was added or is not shown, the space that a tokenizer puts before a text. Where a
// normalizer has changed the prompt, a token that is not found stands where the one before ended.
// Not thread-safe.
class TextOffsets {
 public:
  // The text begins with `prompt`, which is the first `prompt_tokens` tokens; the tokens after them
  // are generated. `tokenizer` must outlive it.
  TextOffsets(const Tokenizer* tokenizer, std::string prompt, int64_t prompt_tokens)
      : tokenizer_(tokenizer), prompt_tokens_(prompt_tokens), text_(std::move(prompt)) {}

  // Of the next token.
  int64_t Next(int32_t token);

 private:
  int64_t OfPrompt(int32_t token);
  int64_t OfGenerated(int32_t token);
  // Characters of text_ before the one in which byte `at` lies.
  int64_t CharacterAt(size_t at);

  const Tokenizer* const tokenizer_;
  int64_t prompt_tokens_;  // still to come
  std::string text_;       // the prompt; then what is generated
  bool generating_ = false;
  size_t end_ = 0;          // of the prompt's last token
  int64_t characters_ = 0;  // before passed_
  size_t passed_ = 0;       // a character's first byte
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_TEXT_OFFSETS_H_
