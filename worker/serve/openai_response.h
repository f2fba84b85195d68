// The answers of OpenAI's API as JSON.
#ifndef SHIFTADD_WORKER_SERVE_OPENAI_RESPONSE_H_
#define SHIFTADD_WORKER_SERVE_OPENAI_RESPONSE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "services/http/http_server.h"
#include "worker/serve/generation.h"
#include "worker/serve/served_model.h"
#include "worker/serve/text_offsets.h"

namespace shiftadd::openai {

// One line of JSON, valid UTF-8 whatever the strings hold.
std::string Dump(const nlohmann::json& json);
http::Response JsonResponse(int status, const nlohmann::json& json);

// The error object with the HTTP status that `status` maps to: INVALID_ARGUMENT 400, OUT_OF_RANGE
// 400 exceed_context_size_error, UNAUTHENTICATED 401, NOT_FOUND 404 model_not_found,
// RESOURCE_EXHAUSTED 429 with Retry-After, UNAVAILABLE 503, UNIMPLEMENTED and FAILED_PRECONDITION
// 400, else 500.
http::Response ErrorResponse(const absl::Status& status);
nlohmann::json ErrorBody(const absl::Status& status);

// A token as the log-probability fields show it: its text, or "bytes:\xNN…" if it is no whole
// UTF-8.
std::string TokenName(const Tokenizer& tokenizer, int32_t token);

// completions: {tokens, token_logprobs, top_logprobs, text_offset}; `offsets` knows
// the tokens before these.
nlohmann::json LegacyLogprobs(const Tokenizer& tokenizer, const std::vector<TokenLogprob>& logprobs,
                              TextOffsets* offsets);
// chat: {content: [{token, logprob, bytes, top_logprobs}]}.
nlohmann::json ChatLogprobs(const Tokenizer& tokenizer, const std::vector<TokenLogprob>& logprobs);

// `cached_tokens`: of the prompt tokens.
nlohmann::json Usage(int64_t prompt_tokens, int64_t completion_tokens, int64_t cached_tokens);

// The parts that all answers and chunks of one request share.
struct Envelope {
  std::string id;      // "cmpl-…", "chatcmpl-…"
  std::string object;  // "text_completion", "chat.completion", "chat.completion.chunk"
  int64_t created = 0;
  const ServedModel* served = nullptr;
  nlohmann::json Wrap(nlohmann::json choices) const;
};

}  // namespace shiftadd::openai

#endif  // SHIFTADD_WORKER_SERVE_OPENAI_RESPONSE_H_
