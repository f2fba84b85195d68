#include "worker/serve/generate_service.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/cpu_linear.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/base/trace.h"
#include "services/rpc/caller_certificate.h"
#include "services/rpc/rpc.h"
#include "services/rpc/stall_guard.h"
#include "shiftadd/v1/generate.grpc.pb.h"
#include "worker/serve/client_name.h"
#include "worker/serve/text_stream.h"

namespace shiftadd {
namespace {

// How often a stream looks whether its client is still there.
constexpr absl::Duration kPoll = absl::Milliseconds(100);
constexpr uint32_t kDefaultMaxTokens = 128;
constexpr int kMaxStops = 16;
constexpr uint32_t kMaxTop = 20;

using Ids = google::protobuf::RepeatedField<uint32_t>;

absl::StatusOr<std::vector<int32_t>> CheckedIds(const Ids& ids, int64_t vocab, const char* field) {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= static_cast<uint64_t>(vocab)) {
      return rpc::InvalidFields(
          {{absl::StrCat(field, "[", i, "]"),
            absl::StrCat(ids[i], " is not in the vocabulary [0, ", vocab, ")")}});
    }
    out.push_back(static_cast<int32_t>(ids[i]));
  }
  return out;
}

absl::StatusOr<std::vector<ChatMessage>> Messages(const v1::Chat& chat) {
  std::vector<ChatMessage> messages;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& m = chat.messages(i);
    if (m.role() != "system" && m.role() != "user" && m.role() != "assistant") {
      return rpc::InvalidFields(
          {{absl::StrCat("chat.messages[", i, "].role"),
            absl::StrCat("\"", m.role(), "\" must be system, user or assistant")}});
    }
    messages.push_back({m.role(), m.content()});
  }
  if (messages.empty()) return rpc::InvalidFields({{"chat.messages", "is empty"}});
  return messages;
}

absl::StatusOr<std::vector<int32_t>> Prompt(const v1::GenerateRequest& request,
                                            const ServedModel& served) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return served.Encode(request.text(), /*add_special=*/true);
    case v1::GenerateRequest::kTokens:
      return CheckedIds(request.tokens().ids(), served.model->spec().vocab, "tokens.ids");
    case v1::GenerateRequest::kChat:
      break;
    default:
      return rpc::InvalidFields({{"prompt", "one of text, tokens and chat must be set"}});
  }
  SA_ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, Messages(request.chat()));
  SA_ASSIGN_OR_RETURN(const std::string text, served.tokenizer->RenderChat(messages, true));
  return served.Encode(text, /*add_special=*/false);
}

absl::StatusOr<GenerateParams> Params(const v1::GenerateRequest& request,
                                      const ServedModel& served) {
  std::vector<rpc::FieldViolation> faults;
  const v1::Sampling& s = request.sampling();
  if (!(s.temperature() >= 0 && s.temperature() <= 2)) {
    faults.push_back(
        {"sampling.temperature", absl::StrCat(s.temperature(), " is not from 0 to 2")});
  }
  if (!(s.top_p() >= 0 && s.top_p() <= 1)) {
    faults.push_back({"sampling.top_p", absl::StrCat(s.top_p(), " is not from 0 to 1")});
  }
  if (request.stop_size() > kMaxStops) {
    faults.push_back({"stop", absl::StrCat(request.stop_size(), " strings, at most ", kMaxStops)});
  }
  if (!faults.empty()) return rpc::InvalidFields(faults);
  GenerateParams params;
  params.max_tokens = request.max_tokens() == 0 ? kDefaultMaxTokens : request.max_tokens();
  params.sampling.temperature = s.temperature();
  params.sampling.top_p = s.top_p() == 0 ? 1 : s.top_p();
  params.sampling.top_k = s.top_k();
  params.sampling.seed = s.seed();
  params.stop.assign(request.stop().begin(), request.stop().end());
  params.ignore_eos = request.ignore_eos();
  SA_ASSIGN_OR_RETURN(params.prompt, Prompt(request, served));
  return params;
}

absl::StatusOr<GenerateParams> Params(const v1::ScoreRequest& request, const ServedModel& served) {
  if (request.top() > kMaxTop) {
    return rpc::InvalidFields({{"top", absl::StrCat(request.top(), ", at most ", kMaxTop)}});
  }
  GenerateParams params;
  params.max_tokens = 0;
  params.prompt_logprobs = true;
  params.top_logprobs = request.top();
  if (request.prompt_case() == v1::ScoreRequest::kText) {
    SA_ASSIGN_OR_RETURN(params.prompt, served.Encode(request.text(), /*add_special=*/true));
  } else if (request.prompt_case() == v1::ScoreRequest::kTokens) {
    SA_ASSIGN_OR_RETURN(params.prompt, CheckedIds(request.tokens().ids(),
                                                  served.model->spec().vocab, "tokens.ids"));
  } else {
    return rpc::InvalidFields({{"prompt", "one of text and tokens must be set"}});
  }
  return params;
}

void Fill(const TokenLogprob& from, v1::TokenScore* to) {
  to->set_token(static_cast<uint32_t>(from.token));
  if (from.known) to->set_logprob(from.logprob);
  for (const auto& [token, logprob] : from.top) {
    v1::TopToken* top = to->add_top();
    top->set_token(static_cast<uint32_t>(token));
    top->set_logprob(logprob);
  }
}

class Service : public v1::GenerateService::Service {
 public:
  Service(const ModelRegistry* registry, const ApiKeys* keys, ServerMetrics* metrics,
          bool keys_checked, access::RateLimit* rates)
      : registry_(registry),
        keys_(keys),
        keys_checked_(keys_checked || keys != nullptr),
        metrics_(metrics),
        rates_(rates) {}

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    const absl::Time start = absl::Now();
    return Done("Generate", start, Run(context, *request, writer));
  }

  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override {
    const absl::Time start = absl::Now();
    return Done("Score", start, Run(context, *request, response));
  }

  grpc::Status Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    const absl::Time start = absl::Now();
    const absl::StatusOr<ModelPtr> model = Find(*context, request->model());
    if (!model.ok()) return Done("Tokenize", start, model.status());
    const auto ids = (*model)->served.Encode(request->text(), request->add_special_tokens());
    if (!ids.ok()) return Done("Tokenize", start, ids.status());
    for (const int32_t id : *ids) response->add_ids(static_cast<uint32_t>(id));
    return Done("Tokenize", start, absl::OkStatus());
  }

  grpc::Status Detokenize(grpc::ServerContext* context, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    const absl::Time start = absl::Now();
    const absl::StatusOr<ModelPtr> model = Find(*context, request->model());
    if (!model.ok()) return Done("Detokenize", start, model.status());
    const auto ids = CheckedIds(request->ids(), (*model)->model->spec().vocab, "ids");
    if (ids.ok()) response->set_text(ToValidUtf8((*model)->tokenizer->Decode(*ids, false)));
    return Done("Detokenize", start, ids.status());
  }

  grpc::Status GetModelInfo(grpc::ServerContext* context, const v1::GetModelInfoRequest* request,
                            v1::ModelInfo* info) override {
    const absl::Time start = absl::Now();
    const absl::StatusOr<ModelPtr> model = Find(*context, request->model());
    if (!model.ok()) return Done("GetModelInfo", start, model.status());
    const ServedModel& served = (*model)->served;
    info->set_name(served.name);
    info->set_digest(served.digest);
    info->set_context_length(static_cast<uint32_t>(served.context));
    info->set_vocabulary(static_cast<uint32_t>(served.model->spec().vocab));
    info->set_weight_bytes(served.model->weight_bytes());
    info->set_isa(kernels::IsaName(served.model->isa()));
    return Done("GetModelInfo", start, absl::OkStatus());
  }

 private:
  // Counted and logged as requests over HTTP are.
  grpc::Status Done(const char* method, absl::Time start, const absl::Status& status) {
    const CallTrace* const trace = TraceScope::Current();
    spdlog::info("{} grpc {} {} {:.3f} s{}", trace != nullptr ? trace->request_id : "", method,
                 absl::StatusCodeToString(status.code()),
                 absl::ToDoubleSeconds(absl::Now() - start),
                 status.ok() ? "" : " " + absl::Utf8SafeCEscape(status.message().substr(0, 300)));
    if (metrics_ != nullptr) {
      metrics_->Requests(absl::StrCat("grpc ", method), static_cast<int>(status.code()))
          .Increment();
    }
    return rpc::ToGrpc(status);
  }

  // By a key that was checked, by a certificate, else by address.
  std::string ClientOf(const grpc::ServerContext& context) const {
    const auto found = context.client_metadata().find("authorization");
    const bool checked = keys_checked_ && found != context.client_metadata().end();
    return ClientName(checked ? absl::string_view(found->second.data(), found->second.size()) : "",
                      rpc::CertificateOf(context), context.peer());
  }

  // Checks the caller's key and rate first.
  absl::StatusOr<ModelPtr> Find(const grpc::ServerContext& context,
                                const std::string& model) const {
    if (keys_ != nullptr) {
      const auto found = context.client_metadata().find("authorization");
      const absl::string_view value =
          found == context.client_metadata().end()
              ? absl::string_view()
              : absl::string_view(found->second.data(), found->second.size());
      SA_RETURN_IF_ERROR(keys_->Check(value));
    }
    if (rates_ != nullptr && !rates_->Take(ClientOf(context), absl::Now())) {
      if (metrics_ != nullptr) metrics_->rate_limited->Increment();
      return absl::ResourceExhaustedError(TooOftenMessage(*rates_));
    }
    return registry_->Find(model, [&context] { return !context.IsCancelled(); });
  }

  absl::Status Run(grpc::ServerContext* context, const v1::GenerateRequest& request,
                   grpc::ServerWriter<v1::GenerateResponse>* writer) {
    SA_ASSIGN_OR_RETURN(const ModelPtr model, Find(*context, request.model()));
    SA_ASSIGN_OR_RETURN(GenerateParams params, Params(request, model->served));
    const uint32_t prompt_tokens = static_cast<uint32_t>(params.prompt.size());
    SA_ASSIGN_OR_RETURN(const std::shared_ptr<Generation> generation,
                        model->engine->Submit({std::move(params)}, ClientOf(*context)));
    const absl::Status status = Copy(context, prompt_tokens, generation.get(), writer);
    generation->Cancel();  // if it was left early
    return status;
  }

  absl::Status Run(grpc::ServerContext* context, const v1::ScoreRequest& request,
                   v1::ScoreResponse* response) {
    SA_ASSIGN_OR_RETURN(const ModelPtr model, Find(*context, request.model()));
    SA_ASSIGN_OR_RETURN(GenerateParams params, Params(request, model->served));
    SA_ASSIGN_OR_RETURN(const std::shared_ptr<Generation> generation,
                        model->engine->Submit({std::move(params)}, ClientOf(*context)));
    while (!context->IsCancelled()) {
      const std::optional<GenerateEvent> event = generation->Next(kPoll);
      if (!event.has_value()) continue;
      SA_RETURN_IF_ERROR(event->status);
      for (const TokenLogprob& lp : event->logprobs) Fill(lp, response->add_scores());
      if (event->last()) return absl::OkStatus();
    }
    generation->Cancel();
    return absl::CancelledError("the client has gone");
  }

  static absl::Status Copy(grpc::ServerContext* context, uint32_t prompt_tokens,
                           Generation* generation,
                           grpc::ServerWriter<v1::GenerateResponse>* writer) {
    uint32_t generated = 0;
    while (true) {
      if (context->IsCancelled()) return absl::CancelledError("the client has gone");
      std::optional<GenerateEvent> event = generation->Next(kPoll);
      if (!event.has_value()) continue;
      SA_RETURN_IF_ERROR(event->status);
      generated += static_cast<uint32_t>(event->tokens.size());
      v1::GenerateResponse response;
      response.set_text(std::move(event->text));
      for (const int32_t id : event->tokens) response.add_tokens(static_cast<uint32_t>(id));
      if (event->last()) {
        response.set_finish_reason(event->finish_reason);
        response.set_prompt_tokens(prompt_tokens);
        response.set_generated_tokens(generated);
      }
      if (!rpc::WriteInTime(context, writer, response)) {
        return absl::CancelledError("the client has gone");
      }
      if (event->last()) return absl::OkStatus();
    }
  }

  const ModelRegistry* const registry_;
  const ApiKeys* const keys_;
  const bool keys_checked_;
  ServerMetrics* const metrics_;
  access::RateLimit* const rates_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewGenerateService(const ModelRegistry* registry,
                                                  const ApiKeys* keys, ServerMetrics* metrics,
                                                  bool keys_checked, access::RateLimit* rates) {
  return std::make_unique<Service>(registry, keys, metrics, keys_checked, rates);
}

}  // namespace shiftadd
