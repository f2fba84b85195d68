// What the tests of the engine ask it for, and what comes out.
#ifndef SHIFTADD_WORKER_SERVE_TESTING_ENGINE_REQUESTS_H_
#define SHIFTADD_WORKER_SERVE_TESTING_ENGINE_REQUESTS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/serve/engine.h"

namespace shiftadd::testing {

inline GenerateParams Params(int prompt, int max_tokens) {
  GenerateParams params;
  for (int i = 0; i < prompt; ++i) params.prompt.push_back(3 + (i * 7) % 250);
  params.max_tokens = max_tokens;
  params.ignore_eos = true;
  return params;
}

// Everything that came out, by sequence.
struct Collected {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::string> text, finish;
  std::vector<absl::Status> status;
  std::vector<int64_t> cached;
  std::vector<size_t> logprobs;  // how many
};

inline Collected Collect(Generation* generation) {
  const size_t count = generation->sequences().size();
  Collected out{std::vector<std::vector<int32_t>>(count),
                std::vector<std::string>(count),
                std::vector<std::string>(count),
                std::vector<absl::Status>(count),
                std::vector<int64_t>(count),
                std::vector<size_t>(count)};
  for (size_t left = count; left > 0;) {
    const auto event = generation->Next(absl::Seconds(60));
    if (!event.has_value()) {
      ADD_FAILURE() << "no event for a minute";
      break;
    }
    auto& tokens = out.tokens[event->index];
    tokens.insert(tokens.end(), event->tokens.begin(), event->tokens.end());
    out.text[event->index] += event->text;
    out.finish[event->index] = event->finish_reason;
    out.status[event->index] = event->status;
    out.cached[event->index] += event->cached;
    out.logprobs[event->index] += event->logprobs.size();
    if (event->last()) --left;
  }
  return out;
}

// The tokens that went through the model for `request`.
inline int64_t Computed(Engine* engine, const std::vector<GenerateParams>& request,
                        Collected* out) {
  const int64_t before = engine->Stats().computed_tokens;
  *out = Collect(engine->Submit(request)->get());
  return engine->Stats().computed_tokens - before;
}

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_SERVE_TESTING_ENGINE_REQUESTS_H_
