// A request to the engine: the sequences that are asked for, and what comes out piece by piece.
#ifndef SHIFTADD_WORKER_SERVE_GENERATION_H_
#define SHIFTADD_WORKER_SERVE_GENERATION_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/serve/sampler.h"

namespace shiftadd {

// One sequence.
struct GenerateParams {
  std::vector<int32_t> prompt;  // not empty
  int64_t max_tokens = 128;     // 0: none, for scoring a prompt
  SamplingParams sampling;
  uint64_t stream = 0;  // of the sampler: the choice's number
  std::vector<std::string> stop;
  std::vector<int32_t> stop_tokens;  // as ends of a sequence, whatever ignore_eos says
  bool ignore_eos = false;
  int64_t top_logprobs = -1;     // -1: no log-probabilities; else how many of the likeliest tokens
  bool prompt_logprobs = false;  // of the prompt's tokens too; needs top_logprobs >= 0
};

// Of the model itself: before temperature, filters and penalties. Natural logarithm.
struct TokenLogprob {
  int32_t token = 0;
  bool known = true;  // false for the first token of a prompt: nothing predicts it
  double logprob = 0;
  std::vector<std::pair<int32_t, double>> top;  // falling
};

struct GenerateEvent {
  size_t index = 0;  // the sequence's number in the request
  std::string text;  // valid UTF-8; runs behind the tokens while something is held back
  std::vector<int32_t>
      tokens;  // generated; an end-of-sequence or stop token is among them, not in the text
  std::vector<TokenLogprob> logprobs;  // of the prompt's tokens first (once), then of `tokens`
  int64_t cached = 0;         // first event: prompt tokens that an earlier sequence's cache gave
  std::string finish_reason;  // last event: "stop" or "length"
  absl::Status status;        // not OK: last event, generation failed
  bool last() const { return !finish_reason.empty() || !status.ok(); }
};

// Thread-safe: the engine pushes, one consumer takes.
class Generation {
 public:
  explicit Generation(std::vector<GenerateParams> sequences, std::string client = "")
      : sequences_(std::move(sequences)), client_(std::move(client)) {}

  const std::string& client() const { return client_; }  // whose it is
  const std::vector<GenerateParams>& sequences() const { return sequences_; }

  // The next event of any sequence, or nothing if none came for `timeout`. Every sequence has one
  // last event.
  std::optional<GenerateEvent> Next(absl::Duration timeout);
  // Nobody waits for the rest: the engine frees the sequences at its next step; their last events
  // are CANCELLED.
  void Cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

  // The engine's side.
  void Push(GenerateEvent event);

 private:
  const std::vector<GenerateParams> sequences_;
  const std::string client_;
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<GenerateEvent> events_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_GENERATION_H_
