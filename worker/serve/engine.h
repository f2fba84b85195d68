// Runs sequences through the model: queue, slots, batches of tokens, sampling, text.
#ifndef SHIFTADD_WORKER_SERVE_ENGINE_H_
#define SHIFTADD_WORKER_SERVE_ENGINE_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/model/tokenizer.h"
#include "worker/serve/generation.h"
#include "worker/serve/packed_model.h"
#include "worker/serve/sequence.h"
#include "worker/serve/server_metrics.h"

namespace shiftadd {

// OUT_OF_RANGE; the payload carries the number of prompt tokens.
inline constexpr char kPromptTokensPayload[] = "shiftadd/n_prompt_tokens";
absl::Status ContextExceeded(int64_t prompt_tokens, int64_t context);

struct EngineOptions {
  int64_t context = 8192;  // tokens of prompt and answer together
  int queue = 64;          // requests that may wait
  int sequences = 4;       // slots: sequences that run together
};

// Every step takes one token of each running sequence and part of a prompt, so that a long prompt
// holds nobody up for long. Requests that wait take turns, one sequence each: a request of a
// hundred prompts does not keep others waiting. Thread-safe. `model`, `tokenizer` and `metrics`
// (may be null) must outlive the engine; the model is called from the engine's thread only.
class Engine {
 public:
  Engine(PackedModel* model, const Tokenizer* tokenizer, const EngineOptions& options,
         ServerMetrics* metrics);
  // Cancels what runs.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Takes all sequences of a request or none. RESOURCE_EXHAUSTED: the queue is full; UNAVAILABLE:
  // draining; OUT_OF_RANGE: a prompt does not fit the context; INVALID_ARGUMENT: a token id outside
  // the vocabulary, an empty prompt.
  absl::StatusOr<std::shared_ptr<Generation>> Submit(std::vector<GenerateParams> request);

  // Refuses new requests, lets what is there end for `grace`, then cancels it. Returns when nothing
  // runs.
  void Drain(absl::Duration grace);
  bool draining() const;

  const EngineOptions& options() const { return options_; }

 private:
  using Request = std::deque<std::unique_ptr<Sequence>>;

  absl::Status Check(const GenerateParams& params) const;
  void Loop();
  // Fills free slots, round robin over requests. Under mutex_.
  void Admit();
  // One forward pass over the running sequences.
  void Step();
  void DropCancelled();
  void UpdateGauges();

  PackedModel* const model_;
  const Tokenizer* const tokenizer_;
  const EngineOptions options_;
  ServerMetrics* const metrics_;
  std::set<int32_t> eos_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Request> queue_;
  bool draining_ = false;
  bool cancel_all_ = false;
  bool stop_ = false;
  std::vector<std::unique_ptr<Sequence>> running_;  // changed by the loop only, under mutex_
  std::vector<float> logits_;
  std::thread thread_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_ENGINE_H_
