// The HTTP front end: OpenAI's API, the tokenizer's, over an Engine.
#ifndef SHIFTADD_WORKER_SERVE_OPENAI_API_H_
#define SHIFTADD_WORKER_SERVE_OPENAI_API_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/access/rate_limit.h"
#include "services/http/http_server.h"
#include "worker/serve/model_registry.h"
#include "worker/serve/openai_request.h"
#include "worker/serve/openai_response.h"
#include "worker/serve/server_metrics.h"

namespace shiftadd::openai {

// Thread-safe. Everything that is pointed to must outlive the API; `metrics` may be null.
class Api {
 public:
  // Answers for the models that `registry` holds now, by their names. `keys_checked`: requests come
  // here only with an Authorization that was checked, which tells clients apart; else addresses do.
  // `rates`: how often one client may ask; null: as often as he likes.
  Api(const ModelRegistry* registry, ServerMetrics* metrics, bool keys_checked = false,
      access::RateLimit* rates = nullptr)
      : registry_(registry), metrics_(metrics), keys_checked_(keys_checked), rates_(rates) {}

  // All but /health, /ready and /metrics.
  http::HttpServer::Routes Routes();

 private:
  // What a request became: its sequences prompt by prompt, each prompt's choices together.
  struct Job {
    ModelPtr model;
    CommonFields fields;
    bool chat = false;
    bool echo = false;
    std::vector<std::string> prompt_texts;  // for echo
    int64_t prompt_tokens = 0;
    std::vector<GenerateParams> sequences;
    Envelope envelope;
  };

  http::Response Models();
  http::Response Model(const std::string& reference, http::StreamWriter* writer);
  http::Response Completions(const http::Request& request, http::StreamWriter* writer);
  http::Response ChatCompletions(const http::Request& request, http::StreamWriter* writer);
  http::Response Tokenize(const http::Request& request, http::StreamWriter* writer);
  http::Response Detokenize(const http::Request& request, http::StreamWriter* writer);
  http::Response TokenizerInfoAnswer(const http::Request& request, http::StreamWriter* writer);

  absl::StatusOr<Job> CompletionJob(const std::string& body, http::StreamWriter* writer) const;
  absl::StatusOr<Job> ChatJob(const std::string& body, http::StreamWriter* writer) const;
  // The model of this name, or that a body names. A client that leaves waits for none.
  absl::StatusOr<ModelPtr> FindModel(const std::string& name, http::StreamWriter* writer) const;
  absl::StatusOr<ModelPtr> FindModel(const nlohmann::json& body, http::StreamWriter* writer) const;
  std::string ClientOf(const http::Request& request) const;
  void AddSequences(const std::vector<int32_t>& prompt, Job* job) const;
  // Of sequence `i` of a completion.
  static TextOffsets OffsetsOf(const Job& job, size_t i);

  http::Response Run(absl::StatusOr<Job> job, const http::Request& request,
                     http::StreamWriter* writer);
  http::Response Answer(const Job& job, Generation* generation, http::StreamWriter* writer);
  http::Response Stream(const Job& job, Generation* generation, http::StreamWriter* writer);
  // The refusal of a client that asks too often.
  std::optional<http::Response> TooOften(const http::Request& request);
  // Wraps a handler so that its client's rate is kept and its answers are counted.
  http::Handler Counted(const std::string& api, http::Handler handler);

  const ModelRegistry* const registry_;
  ServerMetrics* const metrics_;
  const bool keys_checked_;
  access::RateLimit* const rates_;
};

}  // namespace shiftadd::openai

#endif  // SHIFTADD_WORKER_SERVE_OPENAI_API_H_
