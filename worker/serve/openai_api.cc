#include "worker/serve/openai_api.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/ids.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "worker/serve/json_fields.h"

namespace shiftadd::openai {

using http::Request;
using http::Response;
using http::StreamWriter;
using nlohmann::json;

http::Handler Api::Counted(const std::string& api, http::Handler handler) {
  return [this, api, handler = std::move(handler)](const Request& request, StreamWriter* writer) {
    Response response;
    try {
      response = handler(request, writer);
    } catch (const std::exception& e) {
      spdlog::error("{} {}: {}", request.method, request.path, e.what());
      response = Error(absl::InternalError("internal error"));
    }
    if (metrics_ != nullptr) metrics_->Requests(api, response.status).Increment();
    return response;
  };
}

http::HttpServer::Routes Api::Routes() {
  http::HttpServer::Routes routes;
  const auto add = [&](const std::string& path, const char* method, http::Handler handler) {
    routes[path][method] = Counted(path, std::move(handler));
  };
  add("/v1/completions", "POST",
      [this](const Request& r, StreamWriter* w) { return Completions(r, w); });
  add("/v1/chat/completions", "POST",
      [this](const Request& r, StreamWriter* w) { return ChatCompletions(r, w); });
  add("/tokenize", "POST", [this](const Request& r, StreamWriter*) { return Tokenize(r); });
  add("/detokenize", "POST", [this](const Request& r, StreamWriter*) { return Detokenize(r); });
  add("/tokenizer_info", "GET",
      [this](const Request&, StreamWriter*) { return TokenizerInfoAnswer(); });
  add("/v1/models", "GET", [this](const Request&, StreamWriter*) { return Models(); });
  // Clients may write the colon of a tag as %3A.
  const std::string escaped = absl::StrCat("/v1/models/", served_->name);
  std::string encoded = escaped;
  for (size_t at; (at = encoded.find(':')) != std::string::npos;) encoded.replace(at, 1, "%3A");
  for (const std::string& path : {escaped, encoded}) {
    routes[path]["GET"] = Counted("/v1/models/{model}", [this](const Request&, StreamWriter*) {
      return JsonResponse(200, json::parse(Models().body)["data"][0]);
    });
  }
  return routes;
}

Response Api::Error(const absl::Status& status) const {
  return ErrorResponse(status, served_->context);
}

Response Api::Models() {
  const json model = {{"id", served_->name},         {"object", "model"},
                      {"created", served_->created}, {"owned_by", "shiftadd"},
                      {"digest", served_->digest},   {"max_model_len", served_->context}};
  return JsonResponse(200, {{"object", "list"}, {"data", json::array({model})}});
}

absl::Status Api::CheckModel(const std::string& name) const {
  if (name.empty() || served_->IsNamed(name)) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(
      "model \"", name, "\" is not served here; this server has \"", served_->name, "\""));
}

void Api::AddSequences(const std::vector<int32_t>& prompt, Job* job) const {
  job->prompt_tokens += static_cast<int64_t>(prompt.size());
  for (int64_t choice = 0; choice < job->fields.n; ++choice) {
    GenerateParams params = job->fields.params;
    params.prompt = prompt;
    params.stream = static_cast<uint64_t>(choice);
    job->sequences.push_back(std::move(params));
  }
}

absl::StatusOr<Api::Job> Api::CompletionJob(const std::string& body) const {
  SA_ASSIGN_OR_RETURN(const json parsed, ParseObject(body));
  SA_ASSIGN_OR_RETURN(const CompletionFields fields,
                      ParseCompletion(parsed, served_->model->spec().vocab));
  SA_RETURN_IF_ERROR(CheckModel(fields.model));
  Job job;
  job.fields = fields;
  job.echo = fields.echo;
  job.envelope = {NewId("cmpl"), "text_completion", absl::ToUnixSeconds(absl::Now()), served_};
  for (const Prompt& prompt : fields.prompts) {
    std::vector<int32_t> ids = prompt.ids;
    if (prompt.is_text) {
      SA_ASSIGN_OR_RETURN(ids, served_->Encode(prompt.text, /*add_special=*/true));
      if (ids.empty()) return FieldError("prompt", "is empty");
    }
    job.prompt_texts.push_back(prompt.is_text ? prompt.text
                                              : served_->tokenizer->Decode(ids, false));
    AddSequences(ids, &job);
  }
  return job;
}

absl::StatusOr<Api::Job> Api::ChatJob(const std::string& body) const {
  SA_ASSIGN_OR_RETURN(const json parsed, ParseObject(body));
  SA_ASSIGN_OR_RETURN(const ChatFields fields, ParseChat(parsed, served_->model->spec().vocab));
  SA_RETURN_IF_ERROR(CheckModel(fields.model));
  Job job;
  job.fields = fields;
  job.chat = true;
  job.envelope = {NewId("chatcmpl"), fields.stream ? "chat.completion.chunk" : "chat.completion",
                  absl::ToUnixSeconds(absl::Now()), served_};
  SA_ASSIGN_OR_RETURN(const std::string text,
                      served_->tokenizer->RenderChat(fields.messages, true));
  // The template writes what special tokens it wants itself.
  SA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, served_->Encode(text, /*add_special=*/false));
  AddSequences(ids, &job);
  return job;
}

Response Api::Completions(const Request& request, StreamWriter* writer) {
  return Run(CompletionJob(request.body), writer);
}

Response Api::ChatCompletions(const Request& request, StreamWriter* writer) {
  return Run(ChatJob(request.body), writer);
}

absl::StatusOr<std::vector<int32_t>> Api::RequestTokens(const json& body) const {
  const JsonFields fields(body);
  std::string model;
  SA_RETURN_IF_ERROR(fields.Read("model", &model));
  SA_RETURN_IF_ERROR(CheckModel(model));
  bool add_special = true;
  SA_RETURN_IF_ERROR(fields.Read("add_special_tokens", &add_special));
  if (fields.Find("messages") != nullptr) {
    bool open_turn = true;
    SA_RETURN_IF_ERROR(fields.Read("add_generation_prompt", &open_turn));
    SA_ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, ParseMessages(body));
    SA_ASSIGN_OR_RETURN(const std::string text,
                        served_->tokenizer->RenderChat(messages, open_turn));
    return served_->tokenizer->Encode(text, false, true);
  }
  if (fields.Find("prompt") == nullptr) return FieldError("prompt", "is missing");
  std::string prompt;
  SA_RETURN_IF_ERROR(fields.Read("prompt", &prompt));
  return served_->tokenizer->Encode(prompt, add_special, true);
}

Response Api::Tokenize(const Request& request) {
  const absl::StatusOr<json> body = ParseObject(request.body);
  if (!body.ok()) return Error(body.status());
  const absl::StatusOr<std::vector<int32_t>> ids = RequestTokens(*body);
  if (!ids.ok()) return Error(ids.status());
  return JsonResponse(
      200, {{"tokens", *ids}, {"count", ids->size()}, {"max_model_len", served_->context}});
}

Response Api::Detokenize(const Request& request) {
  const absl::StatusOr<json> body = ParseObject(request.body);
  if (!body.ok()) return Error(body.status());
  const json* tokens = JsonFields(*body).Find("tokens");
  if (tokens == nullptr) return Error(FieldError("tokens", "is missing"));
  const auto ids = ParseTokenIds(*tokens, "tokens", served_->model->spec().vocab);
  if (!ids.ok()) return Error(ids.status());
  return JsonResponse(200, {{"prompt", served_->tokenizer->Decode(*ids, false)}});
}

Response Api::TokenizerInfoAnswer() {
  const auto or_null = [](const std::string& s) { return s.empty() ? json() : json(s); };
  const TokenizerInfo& info = served_->info;
  return JsonResponse(200, {{"eos_token", or_null(info.eos)},
                            {"bos_token", or_null(info.bos)},
                            {"pad_token", or_null(info.pad)},
                            {"chat_template", or_null(info.chat_template)}});
}

Response Api::Run(absl::StatusOr<Job> job, StreamWriter* writer) {
  if (!job.ok()) return Error(job.status());
  const absl::StatusOr<std::shared_ptr<Generation>> generation = engine_->Submit(job->sequences);
  if (!generation.ok()) return Error(generation.status());
  return job->fields.stream ? Stream(*job, generation->get(), writer)
                            : Answer(*job, generation->get(), writer);
}

}  // namespace shiftadd::openai
