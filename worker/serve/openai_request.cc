#include "worker/serve/openai_request.h"

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/serve/json_fields.h"

namespace shiftadd::openai {
namespace {

using nlohmann::json;

// Templates look them up one by one.
constexpr size_t kMaxTemplateVariables = 16 << 10;  // bytes as JSON
constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();
// It divides logits: 0 would make infinities of them.
constexpr double kLeastRepetitionPenalty = 0.01;

// A field of OpenAI's API, vLLM's or llama.cpp's that would change the answer in a way that is not
// built, its values that change nothing, and what to say besides.
struct RefusedField {
  const char* name;
  std::vector<json> harmless;
  const char* hint = "";
};

const std::vector<RefusedField>& RefusedFields() {
  static const auto* const fields = new std::vector<RefusedField>{
      // What an answer must look like.
      {"response_format", {json::object({{"type", "text"}})}},
      {"structured_outputs", {json::object()}},
      {"structural_tag", {}},
      {"json_schema", {}},
      {"grammar", {""}},
      {"ebnf", {}},
      {"regex", {}},
      {"guided_json", {}},
      {"guided_regex", {}},
      {"guided_choice", {}},
      {"guided_grammar", {}},
      {"guided_json_object", {false}},
      {"logits_processors", {json::array()}},
      {"allowed_token_ids", {}},
      {"bad_words", {json::array()}},
      // Tools, and what a prompt is made of.
      {"tools", {json::array()}},
      {"functions", {json::array()}},
      {"tool_choice", {"none"}},
      {"function_call", {"none"}},
      {"web_search_options", {}},
      {"audio", {}},
      {"modalities", {json::array({"text"})}},
      {"documents", {json::array()}},
      {"prompt_embeds", {}},
      {"suffix", {""}},
      {"chat_template", {""}},
      {"add_generation_prompt", {true}},
      {"continue_final_message", {false}},
      {"reasoning_effort", {"none"}, "; what a chat template reads is set by chat_template_kwargs"},
      {"verbosity", {"medium"}},
      {"truncate_prompt_tokens", {}},
      {"lora", {json::array()}},
      // How tokens are chosen.
      {"use_beam_search", {false}},
      {"length_penalty", {1}},
      {"early_stopping", {false}},
      {"min_tokens", {0}},
      {"min_length", {0}},
      {"no_repeat_ngram_size", {0}},
      {"repeat_penalty", {1}, "; repetition_penalty is"},
      {"typical_p", {1}},
      {"tfs_z", {1}},
      {"top_a", {0}},
      {"top_n_sigma", {-1, 0}},
      {"epsilon_cutoff", {0}},
      {"eta_cutoff", {0}},
      {"smoothing_factor", {0}},
      {"mirostat", {0}},
      {"mirostat_mode", {0}},
      {"xtc_probability", {0}},
      {"dry_multiplier", {0}},
      {"dynatemp_range", {0}},
      {"n_predict", {}, "; max_tokens is"},
      // What an answer holds.
      {"prompt_logprobs", {}},
      {"n_probs", {0}, "; logprobs is"},
      {"skip_special_tokens", {true}},
      {"include_stop_str_in_output", {false}},
      {"detokenize", {true}},
      {"return_token_ids", {false}},
      {"return_tokens_as_token_ids", {false}}};
  return *fields;
}

absl::Status RefuseUnsupported(const JsonFields& fields) {
  for (const RefusedField& field : RefusedFields()) {
    const json* value = fields.Find(field.name);
    if (value == nullptr) continue;
    if (std::find(field.harmless.begin(), field.harmless.end(), *value) != field.harmless.end()) {
      continue;
    }
    return FieldError(field.name, absl::StrCat("is not supported by this server", field.hint));
  }
  return absl::OkStatus();
}

absl::Status ParseStop(const JsonFields& fields, std::vector<std::string>* stop) {
  const json* value = fields.Find("stop");
  if (value == nullptr) return absl::OkStatus();
  const json list = value->is_string() ? json::array({*value}) : *value;
  if (!list.is_array() || list.size() > kMaxStops) {
    return FieldError("stop", absl::StrCat("must be a string or a list of at most ", kMaxStops,
                                           " strings, not ", Shown(*value)));
  }
  for (const json& s : list) {
    if (!s.is_string() || s.get_ref<const std::string&>().size() > 1024) {
      return FieldError("stop",
                        absl::StrCat("must hold strings of at most 1024 bytes, not ", Shown(s)));
    }
    if (!s.get_ref<const std::string&>().empty()) stop->push_back(s.get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status ParseStopTokens(const JsonFields& fields, int64_t vocab, std::vector<int32_t>* stop) {
  const json* value = fields.Find("stop_token_ids");
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_array() || value->size() > kMaxStopTokens) {
    return FieldError("stop_token_ids", absl::StrCat("must be a list of at most ", kMaxStopTokens,
                                                     " token ids, not ", Shown(*value)));
  }
  SA_ASSIGN_OR_RETURN(*stop, ParseTokenIds(*value, "stop_token_ids", vocab));
  return absl::OkStatus();
}

absl::Status ParseLogitBias(const JsonFields& fields, int64_t vocab, SamplingParams* sampling) {
  const json* value = fields.Find("logit_bias");
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_object()) return FieldError("logit_bias", "must be an object of token id: bias");
  for (const auto& [key, bias] : value->items()) {
    int64_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < 0 || id >= vocab) {
      return FieldError("logit_bias",
                        absl::StrCat("\"", key, "\" is not a token id of [0, ", vocab, ")"));
    }
    if (!bias.is_number() || !(bias.get<double>() >= -100 && bias.get<double>() <= 100)) {
      return FieldError("logit_bias",
                        absl::StrCat("must be a number from -100 to 100, not ", Shown(bias)));
    }
    sampling->logit_bias[static_cast<int32_t>(id)] = bias.get<double>();
  }
  return absl::OkStatus();
}

absl::Status ParseSampling(const JsonFields& fields, int64_t vocab, SamplingParams* sampling) {
  sampling->temperature = 1;
  SA_RETURN_IF_ERROR(fields.Read("temperature", 0.0, 2.0, &sampling->temperature));
  SA_RETURN_IF_ERROR(fields.Read("top_p", 0.0, 1.0, &sampling->top_p));
  SA_RETURN_IF_ERROR(fields.Read("top_k", -1, kMaxTokens, &sampling->top_k));
  SA_RETURN_IF_ERROR(fields.Read("min_p", 0.0, 1.0, &sampling->min_p));
  SA_RETURN_IF_ERROR(fields.Read("frequency_penalty", -2.0, 2.0, &sampling->frequency_penalty));
  SA_RETURN_IF_ERROR(fields.Read("presence_penalty", -2.0, 2.0, &sampling->presence_penalty));
  SA_RETURN_IF_ERROR(fields.Read("repetition_penalty", kLeastRepetitionPenalty, 2.0,
                                 &sampling->repetition_penalty));
  SA_RETURN_IF_ERROR(ParseLogitBias(fields, vocab, sampling));
  if (fields.Find("seed") == nullptr) {
    std::random_device device;
    sampling->seed = (static_cast<uint64_t>(device()) << 32) | device();
    return absl::OkStatus();
  }
  int64_t seed = 0;
  SA_RETURN_IF_ERROR(fields.Read("seed", std::numeric_limits<int64_t>::min(),
                                 std::numeric_limits<int64_t>::max(), &seed));
  sampling->seed = static_cast<uint64_t>(seed);
  return absl::OkStatus();
}

absl::Status ParseStreaming(const JsonFields& fields, CommonFields* out) {
  SA_RETURN_IF_ERROR(fields.Read("stream", &out->stream));
  const json* options = fields.Find("stream_options");
  if (options == nullptr) return absl::OkStatus();
  if (!options->is_object()) return FieldError("stream_options", "must be an object");
  if (!out->stream) return FieldError("stream_options", "is allowed only with stream: true");
  return Annotate(JsonFields(*options).Read("include_usage", &out->include_usage),
                  "stream_options");
}

absl::Status ParseCommon(const JsonFields& fields, int64_t vocab, CommonFields* out) {
  SA_RETURN_IF_ERROR(RefuseUnsupported(fields));
  SA_RETURN_IF_ERROR(fields.Read("model", &out->model));
  SA_RETURN_IF_ERROR(fields.Read("max_tokens", 0, kMaxTokens, &out->params.max_tokens));
  SA_RETURN_IF_ERROR(fields.Read("max_completion_tokens", 0, kMaxTokens, &out->params.max_tokens));
  SA_RETURN_IF_ERROR(fields.Read("n", 1, kMaxChoices, &out->n));
  int64_t best_of = out->n;
  SA_RETURN_IF_ERROR(fields.Read("best_of", 1, kMaxChoices, &best_of));
  if (best_of != out->n) return FieldError("best_of", "is supported only where it equals n");
  SA_RETURN_IF_ERROR(fields.Read("ignore_eos", &out->params.ignore_eos));
  SA_RETURN_IF_ERROR(ParseStop(fields, &out->params.stop));
  SA_RETURN_IF_ERROR(ParseStopTokens(fields, vocab, &out->params.stop_tokens));
  SA_RETURN_IF_ERROR(fields.Read("add_special_tokens", &out->add_special_tokens));
  SA_RETURN_IF_ERROR(ParseSampling(fields, vocab, &out->params.sampling));
  return ParseStreaming(fields, out);
}

absl::StatusOr<Prompt> ParsePrompt(const json& value, const std::string& field, int64_t vocab) {
  Prompt prompt;
  if (value.is_string()) {
    prompt.is_text = true;
    prompt.text = value.get<std::string>();
    return prompt;
  }
  SA_ASSIGN_OR_RETURN(prompt.ids, ParseTokenIds(value, field, vocab));
  if (prompt.ids.empty()) return FieldError(field, "is empty");
  return prompt;
}

absl::Status ParsePrompts(const JsonFields& fields, int64_t vocab, std::vector<Prompt>* prompts) {
  const json* value = fields.Find("prompt");
  if (value == nullptr) return FieldError("prompt", "is missing");
  const bool many = value->is_array() && !value->empty() && !value->front().is_number();
  if (!many) {
    SA_ASSIGN_OR_RETURN(Prompt prompt, ParsePrompt(*value, "prompt", vocab));
    prompts->push_back(std::move(prompt));
    return absl::OkStatus();
  }
  if (value->size() > static_cast<size_t>(kMaxPrompts)) {
    return FieldError("prompt", absl::StrCat("holds ", value->size(), " prompts, at most ",
                                             kMaxPrompts, " are allowed"));
  }
  for (size_t i = 0; i < value->size(); ++i) {
    SA_ASSIGN_OR_RETURN(Prompt prompt,
                        ParsePrompt((*value)[i], absl::StrCat("prompt[", i, "]"), vocab));
    prompts->push_back(std::move(prompt));
  }
  return absl::OkStatus();
}

// A message's content: text, or a list of text parts.
absl::StatusOr<std::string> ParseContent(const json& content, const std::string& field) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array() || content.empty()) {
    return FieldError(
        field, absl::StrCat("must be a string or a list of text parts, not ", Shown(content)));
  }
  std::string text;
  for (const json& part : content) {
    if (!part.is_object() || part.value("type", json()) != "text" || !part.contains("text") ||
        !part["text"].is_string()) {
      return FieldError(
          field, absl::StrCat("only parts of type \"text\" are supported, not ", Shown(part)));
    }
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

absl::StatusOr<ChatMessage> ParseMessage(const json& message, const std::string& field) {
  if (!message.is_object()) return FieldError(field, "must be an object");
  const JsonFields fields(message);
  ChatMessage out;
  SA_RETURN_IF_ERROR(Annotate(fields.Read("role", &out.role), field));
  if (out.role == "developer") out.role = "system";
  if (out.role != "system" && out.role != "user" && out.role != "assistant") {
    return FieldError(field + ".role",
                      absl::StrCat("must be system, developer, user or assistant, not ",
                                   message.contains("role") ? Shown(message["role"]) : "absent"));
  }
  const json* calls = fields.Find("tool_calls");
  if (calls != nullptr && *calls != json::array()) {
    return FieldError(field + ".tool_calls", "is not supported by this server");
  }
  for (const char* name : {"function_call", "audio"}) {
    if (fields.Find(name) == nullptr) continue;
    return FieldError(absl::StrCat(field, ".", name), "is not supported by this server");
  }
  const json* content = fields.Find("content");
  if (content == nullptr) return FieldError(field + ".content", "is missing");
  SA_ASSIGN_OR_RETURN(out.content, ParseContent(*content, field + ".content"));
  return out;
}

}  // namespace

absl::StatusOr<json> ParseObject(const std::string& body) {
  json out;
  SA_RETURN_IF_ERROR(ParseJson(body, &out));
  if (!out.is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  return out;
}

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(const json& list, const std::string& field,
                                                   int64_t vocab) {
  if (!list.is_array()) {
    return FieldError(field,
                      absl::StrCat("must be a string or a list of token ids, not ", Shown(list)));
  }
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const json& id : list) {
    const bool valid = id.is_number_integer() &&
                       (id.is_number_unsigned() || id.get<int64_t>() >= 0) &&
                       id.get<uint64_t>() < static_cast<uint64_t>(vocab);
    if (!valid) {
      return FieldError(field, absl::StrCat(Shown(id), " is not a token id of [0, ", vocab, ")"));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

absl::StatusOr<CompletionFields> ParseCompletion(const json& body, int64_t vocab) {
  const JsonFields fields(body);
  CompletionFields out;
  out.params.max_tokens = 16;  // as OpenAI's
  SA_RETURN_IF_ERROR(ParseCommon(fields, vocab, &out));
  SA_RETURN_IF_ERROR(fields.Read("echo", &out.echo));
  SA_RETURN_IF_ERROR(fields.Read("logprobs", 0, kMaxTopLogprobs, &out.params.top_logprobs));
  out.params.prompt_logprobs = out.echo && out.params.top_logprobs >= 0;
  SA_RETURN_IF_ERROR(ParsePrompts(fields, vocab, &out.prompts));
  return out;
}

absl::StatusOr<std::vector<ChatMessage>> ParseMessages(const json& body) {
  const json* messages = JsonFields(body).Find("messages");
  if (messages == nullptr) return FieldError("messages", "is missing");
  if (!messages->is_array()) {
    return FieldError("messages", absl::StrCat("must be a list, not ", Shown(*messages)));
  }
  if (messages->empty()) return FieldError("messages", "is empty");
  std::vector<ChatMessage> out;
  for (size_t i = 0; i < messages->size(); ++i) {
    SA_ASSIGN_OR_RETURN(ChatMessage message,
                        ParseMessage((*messages)[i], absl::StrCat("messages[", i, "]")));
    out.push_back(std::move(message));
  }
  return out;
}

absl::StatusOr<json> ParseTemplateVariables(const json& body) {
  const json* value = JsonFields(body).Find("chat_template_kwargs");
  if (value == nullptr) return json();
  if (!value->is_object()) {
    return FieldError("chat_template_kwargs",
                      absl::StrCat("must be an object, not ", Shown(*value)));
  }
  if (const size_t size = value->dump().size(); size > kMaxTemplateVariables) {
    return FieldError("chat_template_kwargs",
                      absl::StrCat("takes ", size, " bytes as JSON, at most ",
                                   kMaxTemplateVariables, " are allowed"));
  }
  for (const char* name : {"messages", "tools", "documents", "add_generation_prompt", "bos_token",
                           "eos_token", "chat_template"}) {
    if (value->contains(name)) {
      return FieldError("chat_template_kwargs",
                        absl::StrCat("\"", name, "\" is not to be set here"));
    }
  }
  return *value;
}

absl::StatusOr<ChatFields> ParseChat(const json& body, int64_t vocab) {
  const JsonFields fields(body);
  ChatFields out;
  out.params.max_tokens = kMaxTokens;  // to the end of the context
  out.add_special_tokens = false;      // the template writes what it wants itself
  SA_RETURN_IF_ERROR(ParseCommon(fields, vocab, &out));
  bool echo = false;
  SA_RETURN_IF_ERROR(fields.Read("echo", &echo));
  if (echo) return FieldError("echo", "is supported by /v1/completions only");
  bool logprobs = false;
  int64_t top = 0;
  SA_RETURN_IF_ERROR(fields.Read("logprobs", &logprobs));
  SA_RETURN_IF_ERROR(fields.Read("top_logprobs", 0, kMaxTopLogprobs, &top));
  if (top > 0 && !logprobs) return FieldError("top_logprobs", "needs logprobs: true");
  out.params.top_logprobs = logprobs ? top : -1;
  SA_ASSIGN_OR_RETURN(out.messages, ParseMessages(body));
  SA_ASSIGN_OR_RETURN(out.template_variables, ParseTemplateVariables(body));
  return out;
}

}  // namespace shiftadd::openai
