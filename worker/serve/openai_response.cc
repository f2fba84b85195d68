#include "worker/serve/openai_response.h"

#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "worker/serve/engine.h"
#include "worker/serve/text_stream.h"

namespace shiftadd::openai {
namespace {

using nlohmann::json;

struct ErrorKind {
  int http;
  const char* type;
  const char* code;  // null: none
};

ErrorKind KindOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return {400, "invalid_request_error", nullptr};
    case absl::StatusCode::kFailedPrecondition:
      return {400, "invalid_request_error", nullptr};
    case absl::StatusCode::kUnimplemented:
      return {400, "invalid_request_error", nullptr};
    case absl::StatusCode::kUnauthenticated:
      return {401, "invalid_request_error", "invalid_api_key"};
    case absl::StatusCode::kOutOfRange:
      return {400, "exceed_context_size_error", nullptr};
    case absl::StatusCode::kNotFound:
      return {404, "invalid_request_error", "model_not_found"};
    case absl::StatusCode::kResourceExhausted:
      return {429, "rate_limit_error", "queue_full"};
    case absl::StatusCode::kCancelled:
      return {499, "invalid_request_error", "client_closed_request"};  // nobody reads it
    case absl::StatusCode::kUnavailable:
      return {503, "service_unavailable_error", nullptr};
    default:
      return {500, "server_error", nullptr};
  }
}

// JSON knows no infinity; below any float's log-probability.
double Finite(double logprob) { return std::isfinite(logprob) ? logprob : -9999.0; }

json Bytes(const std::string& text) {
  json bytes = json::array();
  for (const char c : text) bytes.push_back(static_cast<uint8_t>(c));
  return bytes;
}

json ChatToken(const Tokenizer& tokenizer, int32_t token, double logprob) {
  return {{"token", TokenName(tokenizer, token)},
          {"logprob", Finite(logprob)},
          {"bytes", Bytes(tokenizer.Decode({token}, false))}};
}

}  // namespace

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

http::Response JsonResponse(int status, const json& value) {
  http::Response response;
  response.status = status;
  response.body = Dump(value);
  return response;
}

json ErrorBody(const absl::Status& status) {
  const ErrorKind kind = KindOf(status.code());
  json error = {
      {"message", ToValidUtf8(status.message())}, {"type", kind.type}, {"param", nullptr}};
  if (kind.code != nullptr) {
    error["code"] = kind.code;
  } else {
    error["code"] = kind.http;
  }
  if (status.code() == absl::StatusCode::kOutOfRange) {
    const auto add = [&](const char* name, const char* payload_name) {
      int64_t number = 0;
      const auto payload = status.GetPayload(payload_name);
      if (payload.has_value() && absl::SimpleAtoi(std::string(*payload), &number)) {
        error[name] = number;
      }
    };
    add("n_prompt_tokens", kPromptTokensPayload);
    add("n_ctx", kContextPayload);
  }
  return {{"error", error}};
}

http::Response ErrorResponse(const absl::Status& status) {
  http::Response response = JsonResponse(KindOf(status.code()).http, ErrorBody(status));
  if (response.status == 401) response.headers["WWW-Authenticate"] = "Bearer";
  if (response.status == 429 || response.status == 503) response.headers["Retry-After"] = "1";
  return response;
}

std::string TokenName(const Tokenizer& tokenizer, int32_t token) {
  const std::string text = tokenizer.Decode({token}, /*skip_special=*/false);
  if (ToValidUtf8(text) == text) return text;
  std::string name = "bytes:";
  for (const char c : text) absl::StrAppendFormat(&name, "\\x%02x", static_cast<uint8_t>(c));
  return name;
}

json LegacyLogprobs(const Tokenizer& tokenizer, const std::vector<TokenLogprob>& logprobs,
                    TextOffsets* text_offsets) {
  json tokens = json::array(), values = json::array(), tops = json::array();
  json offsets = json::array();
  for (const TokenLogprob& lp : logprobs) {
    tokens.push_back(TokenName(tokenizer, lp.token));
    offsets.push_back(text_offsets->Next(lp.token));
    if (!lp.known) {
      values.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    values.push_back(Finite(lp.logprob));
    json top = json::object();
    top[TokenName(tokenizer, lp.token)] = Finite(lp.logprob);
    for (const auto& [id, value] : lp.top) {
      // Two tokens of the same text: the likelier one stands for both.
      json& slot = top[TokenName(tokenizer, id)];
      if (!slot.is_number() || slot.get<double>() < value) slot = Finite(value);
    }
    tops.push_back(std::move(top));
  }
  return {{"tokens", tokens},
          {"token_logprobs", values},
          {"top_logprobs", tops},
          {"text_offset", offsets}};
}

json ChatLogprobs(const Tokenizer& tokenizer, const std::vector<TokenLogprob>& logprobs) {
  json content = json::array();
  for (const TokenLogprob& lp : logprobs) {
    json entry = ChatToken(tokenizer, lp.token, lp.logprob);
    json top = json::array();
    for (const auto& [id, value] : lp.top) top.push_back(ChatToken(tokenizer, id, value));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", content}};
}

json Usage(int64_t prompt_tokens, int64_t completion_tokens, int64_t cached_tokens) {
  return {{"prompt_tokens", prompt_tokens},
          {"completion_tokens", completion_tokens},
          {"total_tokens", prompt_tokens + completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", cached_tokens}}}};
}

json Envelope::Wrap(json choices) const {
  return {{"id", id},
          {"object", object},
          {"created", created},
          {"model", served->name},
          {"system_fingerprint", "shiftadd-" + served->digest.substr(0, 19)},
          {"choices", std::move(choices)}};
}

}  // namespace shiftadd::openai
