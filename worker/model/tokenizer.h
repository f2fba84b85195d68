// Text to token ids and back: byte-level BPE (GPT-2, LLaMA-3, Qwen), SentencePiece's BPE (LLaMA-1
// and 2, Mistral, Gemma) and Unigram, as a tokenizer.json describes them.
#ifndef SHIFTADD_WORKER_MODEL_TOKENIZER_H_
#define SHIFTADD_WORKER_MODEL_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace shiftadd {

struct ChatMessage {
  std::string role;  // system, user, assistant
  std::string content;
};

// Immutable, thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // From the canonical tokenizer.json (ModelSource::tokenizer_json). UNIMPLEMENTED names a
  // construct that is not supported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(absl::string_view tokenizer_json);

  // Special tokens written in the text become their ids if `parse_special`. Invalid UTF-8 is
  // encoded byte by byte. `add_special`: what the model's post-processor adds (BOS).
  virtual std::vector<int32_t> Encode(absl::string_view text, bool add_special,
                                      bool parse_special) const = 0;
  // Raw bytes: may end in the middle of a UTF-8 character. Special tokens are skipped if
  // `skip_special`. Where a tokenizer puts a space before a text, a list of tokens is given without
  // it; a single token, of which more may be to come, as it stands.
  virtual std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  // Renders with the model's chat template. `add_generation_prompt` opens the assistant's turn.
  // `variables`: an object of what the template may look at besides; null: nothing.
  // FAILED_PRECONDITION: the model has no template, or one with a construct that is not supported
  // (named); INVALID_ARGUMENT: the template refuses these messages.
  virtual absl::StatusOr<std::string> RenderChat(const std::vector<ChatMessage>& messages,
                                                 bool add_generation_prompt,
                                                 const nlohmann::ordered_json& variables) const = 0;
  absl::StatusOr<std::string> RenderChat(const std::vector<ChatMessage>& messages,
                                         bool add_generation_prompt) const {
    return RenderChat(messages, add_generation_prompt, nullptr);
  }
};

// The length of the longest prefix of `bytes` that ends on a UTF-8 character boundary (streams hold
// the rest back). Bytes that can never become valid are not held back.
size_t CompleteUtf8Prefix(absl::string_view bytes);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_TOKENIZER_H_
