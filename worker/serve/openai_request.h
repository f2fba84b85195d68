// The bodies of OpenAI's API, checked and translated. No sockets, no engine.
#ifndef SHIFTADD_WORKER_SERVE_OPENAI_REQUEST_H_
#define SHIFTADD_WORKER_SERVE_OPENAI_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/model/tokenizer.h"
#include "worker/serve/generation.h"

namespace shiftadd::openai {

inline constexpr int64_t kMaxChoices = 8;
inline constexpr int64_t kMaxPrompts = 1024;
inline constexpr int64_t kMaxTopLogprobs = 20;
inline constexpr size_t kMaxStops = 16;
inline constexpr size_t kMaxStopTokens = 128;

// What completions and chat completions share.
struct CommonFields {
  std::string model;      // empty: whatever is served
  GenerateParams params;  // all but the prompt
  int64_t n = 1;
  bool stream = false;
  bool include_usage = false;
  bool add_special_tokens = true;  // those that the model puts before a text
};

struct Prompt {
  std::string text;          // if it was text
  std::vector<int32_t> ids;  // if it was token ids
  bool is_text = false;
};

struct CompletionFields : CommonFields {
  std::vector<Prompt> prompts;
  bool echo = false;
};

struct ChatFields : CommonFields {
  std::vector<ChatMessage> messages;
  nlohmann::json template_variables;  // an object or null
};

// All of these: INVALID_ARGUMENT names the field, what was found and what was expected. Unknown
// fields are ignored (clients depend on it); null is the same as absent; what is not supported and
// would change the answer is refused.
absl::StatusOr<nlohmann::json> ParseObject(const std::string& body);
absl::StatusOr<CompletionFields> ParseCompletion(const nlohmann::json& body, int64_t vocab);
absl::StatusOr<ChatFields> ParseChat(const nlohmann::json& body, int64_t vocab);
absl::StatusOr<std::vector<ChatMessage>> ParseMessages(const nlohmann::json& body);
// The object chat_template_kwargs: what a chat template may look at besides the messages.
absl::StatusOr<nlohmann::json> ParseTemplateVariables(const nlohmann::json& body);
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(const nlohmann::json& list,
                                                   const std::string& field, int64_t vocab);

}  // namespace shiftadd::openai

#endif  // SHIFTADD_WORKER_SERVE_OPENAI_REQUEST_H_
