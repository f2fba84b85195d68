#include "worker/serve/openai_api.h"

#include <algorithm>
#include <exception>
#include <new>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "services/base/ids.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/http/percent_encoding.h"
#include "worker/serve/client_name.h"
#include "worker/serve/json_fields.h"
#include "worker/serve/text_stream.h"

namespace shiftadd::openai {

using http::Request;
using http::Response;
using http::StreamWriter;
using nlohmann::json;

namespace {

constexpr char kModelPaths[] = "/v1/models/";

// A page of another site may send text, forms and bytes of no type without asking first (CORS), but
// not JSON. What is no browser (no Origin) need not say what it sends.
bool IsJson(const Request& request) {
  const auto type = request.headers.find("content-type");
  if (request.method != "POST") return true;
  if (type == request.headers.end()) return request.headers.count("origin") == 0;
  const std::string media(absl::StripAsciiWhitespace(
      absl::string_view(type->second).substr(0, type->second.find(';'))));
  return absl::EqualsIgnoreCase(media, "application/json") ||
         absl::EndsWithIgnoreCase(media, "+json");
}

Response NotJson(const Request& request) {
  const auto type = request.headers.find("content-type");
  return http::JsonError(
      415,
      absl::StrCat("Content-Type must be application/json, not ",
                   type == request.headers.end() ? "absent" : ToValidUtf8(type->second)),
      "", "unsupported_media_type");
}

}  // namespace

http::Handler Api::Counted(const std::string& api, http::Handler handler) {
  return [this, api, handler = std::move(handler)](const Request& request, StreamWriter* writer) {
    const absl::Time start = absl::Now();
    Response response;
    try {
      std::optional<Response> refused = TooOften(request);
      if (refused.has_value()) {
        response = *std::move(refused);
      } else {
        response = IsJson(request) ? handler(request, writer) : NotJson(request);
      }
    } catch (const std::bad_alloc&) {
      spdlog::error("{} {} {}: out of memory", request.id, request.method, request.path);
      response = ErrorResponse(absl::UnavailableError("the server is out of memory"));
    } catch (const std::exception& e) {
      spdlog::error("{} {} {}: {}", request.id, request.method, request.path, e.what());
      response = ErrorResponse(absl::InternalError("internal error"));
    }
    spdlog::info("{} {} {} {} {:.3f} s{}", request.id, request.method, request.path,
                 response.status, absl::ToDoubleSeconds(absl::Now() - start),
                 response.status >= 400 ? " " + response.body.substr(0, 300) : "");
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
  add("/tokenize", "POST", [this](const Request& r, StreamWriter* w) { return Tokenize(r, w); });
  add("/detokenize", "POST",
      [this](const Request& r, StreamWriter* w) { return Detokenize(r, w); });
  add("/tokenizer_info", "GET",
      [this](const Request& r, StreamWriter* w) { return TokenizerInfoAnswer(r, w); });
  add("/v1/models", "GET", [this](const Request&, StreamWriter*) { return Models(); });
  // Clients may write the colon of a tag, and slashes, as %3A and %2F.
  routes[absl::StrCat(kModelPaths, "*")]["GET"] =
      Counted("/v1/models/{model}", [this](const Request& r, StreamWriter* w) {
        return Model(http::PercentDecoded(r.path.substr(sizeof(kModelPaths) - 1)), w);
      });
  return routes;
}

namespace {

json ModelJson(const ServedModel& served) {
  return {{"id", served.name},      {"object", "model"},       {"created", served.created},
          {"owned_by", "shiftadd"}, {"digest", served.digest}, {"max_model_len", served.context}};
}

}  // namespace

Response Api::Models() {
  json data = json::array();
  for (const ModelPtr& model : registry_->All()) data.push_back(ModelJson(model->served));
  return JsonResponse(200, {{"object", "list"}, {"data", data}});
}

Response Api::Model(const std::string& reference, StreamWriter* writer) {
  const absl::StatusOr<ModelPtr> model = FindModel(reference, writer);
  if (!model.ok()) return ErrorResponse(model.status());
  return JsonResponse(200, ModelJson((*model)->served));
}

absl::StatusOr<ModelPtr> Api::FindModel(const std::string& name, StreamWriter* writer) const {
  return registry_->Find(name, [writer] { return writer->Connected(); });
}

absl::StatusOr<ModelPtr> Api::FindModel(const json& body, StreamWriter* writer) const {
  std::string name;
  SA_RETURN_IF_ERROR(JsonFields(body).Read("model", &name));
  return FindModel(name, writer);
}

std::string Api::ClientOf(const Request& request) const {
  const auto key = request.headers.find("authorization");
  const std::string& certificate =
      request.certificate_uri.empty() ? request.certificate_subject : request.certificate_uri;
  return ClientName(keys_checked_ && key != request.headers.end() ? key->second : "", certificate,
                    request.peer);
}

std::optional<Response> Api::TooOften(const Request& request) {
  if (rates_ == nullptr || rates_->Take(ClientOf(request), absl::Now())) return std::nullopt;
  if (metrics_ != nullptr) metrics_->rate_limited->Increment();
  Response response =
      http::JsonError(429, TooOftenMessage(*rates_), "rate_limit_error", "rate_limit_exceeded");
  response.headers["Retry-After"] = absl::StrCat(rates_->RetrySeconds());
  return response;
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

absl::StatusOr<Api::Job> Api::CompletionJob(const std::string& body, StreamWriter* writer) const {
  SA_ASSIGN_OR_RETURN(const json parsed, ParseObject(body));
  Job job;
  SA_ASSIGN_OR_RETURN(job.model, FindModel(parsed, writer));
  const ServedModel& served = job.model->served;
  SA_ASSIGN_OR_RETURN(const CompletionFields fields,
                      ParseCompletion(parsed, served.model->spec().vocab));
  job.fields = fields;
  job.echo = fields.echo;
  job.envelope = {NewId("cmpl"), "text_completion", absl::ToUnixSeconds(absl::Now()), &served};
  for (const Prompt& prompt : fields.prompts) {
    std::vector<int32_t> ids = prompt.ids;
    if (prompt.is_text) {
      SA_ASSIGN_OR_RETURN(ids, served.Encode(prompt.text, fields.add_special_tokens));
      if (ids.empty()) return FieldError("prompt", "is empty");
    }
    // Before each choice gets them: as a body may be, they would be hundreds of megabytes.
    const auto size = static_cast<int64_t>(ids.size());
    if (size > served.context) return ContextExceeded(size, served.context);
    job.prompt_texts.push_back(prompt.is_text ? prompt.text : served.tokenizer->Decode(ids, false));
    AddSequences(ids, &job);
  }
  return job;
}

absl::StatusOr<Api::Job> Api::ChatJob(const std::string& body, StreamWriter* writer) const {
  SA_ASSIGN_OR_RETURN(const json parsed, ParseObject(body));
  Job job;
  SA_ASSIGN_OR_RETURN(job.model, FindModel(parsed, writer));
  const ServedModel& served = job.model->served;
  SA_ASSIGN_OR_RETURN(const ChatFields fields, ParseChat(parsed, served.model->spec().vocab));
  job.fields = fields;
  job.chat = true;
  job.envelope = {NewId("chatcmpl"), fields.stream ? "chat.completion.chunk" : "chat.completion",
                  absl::ToUnixSeconds(absl::Now()), &served};
  SA_ASSIGN_OR_RETURN(
      const std::string text,
      served.tokenizer->RenderChat(fields.messages, true, fields.template_variables));
  SA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                      served.Encode(text, fields.add_special_tokens));
  AddSequences(ids, &job);
  return job;
}

Response Api::Completions(const Request& request, StreamWriter* writer) {
  return Run(CompletionJob(request.body, writer), request, writer);
}

Response Api::ChatCompletions(const Request& request, StreamWriter* writer) {
  return Run(ChatJob(request.body, writer), request, writer);
}

namespace {

absl::StatusOr<std::vector<int32_t>> RequestTokens(const json& body, const ServedModel& served) {
  const JsonFields fields(body);
  bool add_special = true;
  SA_RETURN_IF_ERROR(fields.Read("add_special_tokens", &add_special));
  if (fields.Find("messages") != nullptr) {
    bool open_turn = true;
    SA_RETURN_IF_ERROR(fields.Read("add_generation_prompt", &open_turn));
    SA_ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, ParseMessages(body));
    SA_ASSIGN_OR_RETURN(const json variables, ParseTemplateVariables(body));
    SA_ASSIGN_OR_RETURN(const std::string text,
                        served.tokenizer->RenderChat(messages, open_turn, variables));
    return served.Encode(text, /*add_special=*/false);
  }
  if (fields.Find("prompt") == nullptr) return FieldError("prompt", "is missing");
  std::string prompt;
  SA_RETURN_IF_ERROR(fields.Read("prompt", &prompt));
  return served.Encode(prompt, add_special);
}

}  // namespace

Response Api::Tokenize(const Request& request, StreamWriter* writer) {
  const absl::StatusOr<json> body = ParseObject(request.body);
  if (!body.ok()) return ErrorResponse(body.status());
  const absl::StatusOr<ModelPtr> model = FindModel(*body, writer);
  if (!model.ok()) return ErrorResponse(model.status());
  const ServedModel& served = (*model)->served;
  const absl::StatusOr<std::vector<int32_t>> ids = RequestTokens(*body, served);
  if (!ids.ok()) return ErrorResponse(ids.status());
  return JsonResponse(
      200, {{"tokens", *ids}, {"count", ids->size()}, {"max_model_len", served.context}});
}

Response Api::Detokenize(const Request& request, StreamWriter* writer) {
  const absl::StatusOr<json> body = ParseObject(request.body);
  if (!body.ok()) return ErrorResponse(body.status());
  const absl::StatusOr<ModelPtr> model = FindModel(*body, writer);
  if (!model.ok()) return ErrorResponse(model.status());
  const json* tokens = JsonFields(*body).Find("tokens");
  if (tokens == nullptr) return ErrorResponse(FieldError("tokens", "is missing"));
  const ServedModel& served = (*model)->served;
  const auto ids = ParseTokenIds(*tokens, "tokens", served.model->spec().vocab);
  if (!ids.ok()) return ErrorResponse(ids.status());
  return JsonResponse(200, {{"prompt", served.tokenizer->Decode(*ids, false)}});
}

Response Api::TokenizerInfoAnswer(const Request& request, StreamWriter* writer) {
  // ?model=NAME where there are several.
  std::string name;
  for (const absl::string_view part : absl::StrSplit(request.query, '&')) {
    if (absl::StartsWith(part, "model=")) name = std::string(part.substr(6));
  }
  const absl::StatusOr<ModelPtr> model = FindModel(http::PercentDecoded(name), writer);
  if (!model.ok()) return ErrorResponse(model.status());
  const auto or_null = [](const std::string& s) { return s.empty() ? json() : json(s); };
  const TokenizerInfo& info = (*model)->served.info;
  return JsonResponse(200, {{"eos_token", or_null(info.eos)},
                            {"bos_token", or_null(info.bos)},
                            {"pad_token", or_null(info.pad)},
                            {"chat_template", or_null(info.chat_template)}});
}

Response Api::Run(absl::StatusOr<Job> job, const Request& request, StreamWriter* writer) {
  if (!job.ok()) return ErrorResponse(job.status());
  const absl::StatusOr<std::shared_ptr<Generation>> generation =
      job->model->engine->Submit(job->sequences, ClientOf(request));
  if (!generation.ok()) return ErrorResponse(generation.status());
  return job->fields.stream ? Stream(*job, generation->get(), writer)
                            : Answer(*job, generation->get(), writer);
}

}  // namespace shiftadd::openai
