// A sequence in a slot of the engine: how far it is, and what its logits become.
#ifndef SHIFTADD_WORKER_SERVE_SEQUENCE_H_
#define SHIFTADD_WORKER_SERVE_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/model/tokenizer.h"
#include "worker/serve/generation.h"
#include "worker/serve/packed_model.h"
#include "worker/serve/server_metrics.h"
#include "worker/serve/text_stream.h"
#include "worker/serve/vector_ops.h"

namespace shiftadd {

// Not thread-safe; the engine's.
class Sequence {
 public:
  // What all sequences of an engine share. `metrics` may be null.
  struct Shared {
    const Tokenizer* tokenizer;
    const std::set<int32_t>* eos;
    const VectorOps* ops;
    ServerMetrics* metrics;
    int64_t context;
    int64_t vocab;
  };

  // Sequence `index` of `generation`.
  Sequence(const Shared& shared, std::shared_ptr<Generation> generation, size_t index);

  const Generation& generation() const { return *generation_; }
  // Gives the sequence its cache.
  void Start(const PackedModel& model);
  bool finished() const { return finished_; }
  // True while prompt tokens are left to go through the model.
  bool in_prompt() const { return position_ < static_cast<int64_t>(prompt().size()); }

  // Appends the rows of the next step, at most `limit` (>= 1) of them.
  void AddRows(int64_t limit, std::vector<BatchRow>* rows);
  // Takes the logits of the rows added last that wanted some; returns how many those were.
  int64_t Accept(const float* logits);
  // Ends it with an error, or because it was cancelled.
  void Fail(const absl::Status& status);

 private:
  const GenerateParams& params() const { return generation_->sequences()[index_]; }
  const std::vector<int32_t>& prompt() const { return params().prompt; }
  void Push(GenerateEvent event);
  TokenLogprob Logprob(const float* logits, int32_t token) const;
  void TakeToken(const float* logits, GenerateEvent* event);
  void Finish(const std::string& reason, GenerateEvent* event);
  void Observe(const std::string& outcome);

  const Shared shared_;
  const std::shared_ptr<Generation> generation_;
  const size_t index_;
  const absl::Time arrival_;
  absl::Time last_token_;
  std::unique_ptr<KvCache> cache_;
  Sampler sampler_;
  TextStream text_;
  int64_t position_ = 0;    // tokens that went through the model
  int64_t step_rows_ = 0;   // of the step that runs
  int64_t max_tokens_ = 0;  // that fit
  int64_t generated_ = 0;
  int32_t next_ = -1;  // the newest token
  bool finished_ = false;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SEQUENCE_H_
