#include "worker/serve/generate_service.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu_linear.h"
#include "services/base/status_macros.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/generate.grpc.pb.h"
#include "worker/serve/text_stream.h"

namespace shiftadd {
namespace {

// How often a stream looks whether its client is still there.
constexpr absl::Duration kPoll = absl::Milliseconds(100);
constexpr uint32_t kDefaultMaxTokens = 128;
constexpr int kMaxStops = 16;

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

class Service : public v1::GenerateService::Service {
 public:
  Service(const ServedModel* served, Engine* engine, ServerMetrics* metrics)
      : served_(served), engine_(engine), metrics_(metrics) {}

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    return Done("Generate", Run(context, *request, writer));
  }

  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    for (const int32_t id :
         served_->tokenizer->Encode(request->text(), request->add_special_tokens(), true)) {
      response->add_ids(static_cast<uint32_t>(id));
    }
    return Done("Tokenize", absl::OkStatus());
  }

  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    const auto ids = CheckedIds(request->ids(), served_->model->spec().vocab, "ids");
    if (ids.ok()) response->set_text(ToValidUtf8(served_->tokenizer->Decode(*ids, false)));
    return Done("Detokenize", ids.status());
  }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::GetModelInfoRequest*,
                            v1::ModelInfo* info) override {
    info->set_name(served_->name);
    info->set_digest(served_->digest);
    info->set_context_length(static_cast<uint32_t>(served_->context));
    info->set_vocabulary(static_cast<uint32_t>(served_->model->spec().vocab));
    info->set_weight_bytes(served_->model->weight_bytes());
    info->set_isa(kernels::IsaName(served_->model->isa()));
    return Done("GetModelInfo", absl::OkStatus());
  }

 private:
  grpc::Status Done(const char* method, const absl::Status& status) {
    if (metrics_ != nullptr) {
      metrics_->Requests(absl::StrCat("grpc ", method), static_cast<int>(status.code()))
          .Increment();
    }
    return rpc::ToGrpc(status);
  }

  absl::StatusOr<std::vector<int32_t>> Prompt(const v1::GenerateRequest& request) const {
    switch (request.prompt_case()) {
      case v1::GenerateRequest::kText:
        return served_->Encode(request.text(), /*add_special=*/true);
      case v1::GenerateRequest::kTokens:
        return CheckedIds(request.tokens().ids(), served_->model->spec().vocab, "tokens.ids");
      case v1::GenerateRequest::kChat:
        break;
      default:
        return rpc::InvalidFields({{"prompt", "one of text, tokens and chat must be set"}});
    }
    std::vector<ChatMessage> messages;
    for (int i = 0; i < request.chat().messages_size(); ++i) {
      const v1::ChatMessage& m = request.chat().messages(i);
      if (m.role() != "system" && m.role() != "user" && m.role() != "assistant") {
        return rpc::InvalidFields(
            {{absl::StrCat("chat.messages[", i, "].role"),
              absl::StrCat("\"", m.role(), "\" must be system, user or assistant")}});
      }
      messages.push_back({m.role(), m.content()});
    }
    if (messages.empty()) return rpc::InvalidFields({{"chat.messages", "is empty"}});
    SA_ASSIGN_OR_RETURN(const std::string text, served_->tokenizer->RenderChat(messages, true));
    return served_->Encode(text, /*add_special=*/false);
  }

  absl::StatusOr<GenerateParams> Params(const v1::GenerateRequest& request) const {
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
      faults.push_back(
          {"stop", absl::StrCat(request.stop_size(), " strings, at most ", kMaxStops)});
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
    SA_ASSIGN_OR_RETURN(params.prompt, Prompt(request));
    return params;
  }

  absl::Status Run(grpc::ServerContext* context, const v1::GenerateRequest& request,
                   grpc::ServerWriter<v1::GenerateResponse>* writer) {
    SA_ASSIGN_OR_RETURN(GenerateParams params, Params(request));
    const uint32_t prompt_tokens = static_cast<uint32_t>(params.prompt.size());
    SA_ASSIGN_OR_RETURN(const std::shared_ptr<Generation> generation,
                        engine_->Submit({std::move(params)}));
    const absl::Status status = Copy(context, prompt_tokens, generation.get(), writer);
    generation->Cancel();  // if it was left early
    return status;
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
      if (!writer->Write(response)) return absl::CancelledError("the client has gone");
      if (event->last()) return absl::OkStatus();
    }
  }

  const ServedModel* const served_;
  Engine* const engine_;
  ServerMetrics* const metrics_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewGenerateService(const ServedModel* served, Engine* engine,
                                                  ServerMetrics* metrics) {
  return std::make_unique<Service>(served, engine, metrics);
}

}  // namespace shiftadd
