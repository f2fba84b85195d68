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
    bool model_samples;  // PackedModel::can_sample
  };

  // Sequence `index` of `generation`.
  Sequence(const Shared& shared, std::shared_ptr<Generation> generation, size_t index);

  const Generation& generation() const { return *generation_; }
  // The prompt and what was generated.
  const std::vector<int32_t>& tokens() const { return tokens_; }
  // Tokens that the cache holds.
  int64_t position() const { return position_; }
  // How many of the first tokens may come from another cache: not the last one, whose logits are
  // wanted, and none whose log-probabilities are still owed.
  int64_t Reusable() const;
  bool finished() const { return finished_; }
  // True once it had a slot, which it may have lost again.
  bool started() const { return started_; }
  void SetStarted() { started_ = true; }
  // True while more than the newest token is left to go through the model, or nothing came yet.
  bool in_prompt() const {
    return generated_ == 0 || static_cast<int64_t>(tokens_.size()) - position_ > 1;
  }

  // Ends a sequence that asks for nothing at all.
  void FinishIfNothingToDo();
  // Gives the sequence its cache, which shares the first `tokens` (at most Reusable()) of `from` if
  // that is not null.
  void Start(const PackedModel& model, const KvCache* from, int64_t tokens);
  // Gives up its cache: once finished, for others to begin with; or to go on later from Start.
  std::unique_ptr<KvCache> TakeCache();

  // Appends the rows of the next step, at most `limit` (>= 1) of them.
  void AddRows(int64_t limit, std::vector<BatchRow>* rows);
  // Takes the logits of the rows added last that wanted some. Different sequences may do so on
  // different threads at once, AcceptSampled likewise.
  void Accept(const float* logits);
  // True if the model draws the token of the rows added last: their logits are wanted for nothing
  // else. Then AcceptSampled takes it (-1: no logit was finite).
  bool sampled_by_model() const { return sampled_by_model_; }
  void AcceptSampled(int32_t token);
  const KvCache* cache() const { return cache_.get(); }
  bool MakeRoom(int64_t tokens) { return cache_->MakeRoom(tokens); }
  // Ends it with an error, or because it was cancelled.
  void Fail(const absl::Status& status);

 private:
  const GenerateParams& params() const { return generation_->sequences()[index_]; }
  const std::vector<int32_t>& prompt() const { return params().prompt; }
  void Push(GenerateEvent event);
  // True if the row of tokens_[i] must give logits.
  bool Wanted(int64_t i) const;
  int64_t AcceptPrompt(const float* logits, GenerateEvent* event);
  TokenLogprob Logprob(const float* logits, int32_t token) const;
  // `logits` may be null where no log-probabilities are asked for.
  void TakeToken(const absl::StatusOr<int32_t>& token, const float* logits, GenerateEvent* event);
  void Finish(const std::string& reason, GenerateEvent* event);
  void Observe(const std::string& outcome);

  const Shared shared_;
  const std::shared_ptr<Generation> generation_;
  const size_t index_;
  const absl::Time arrival_;
  absl::Time last_token_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> tokens_;
  Sampler sampler_;
  TextStream text_;
  int64_t position_ = 0;           // tokens that went through the model
  int64_t step_rows_ = 0;          // of the step that runs
  bool sampled_by_model_ = false;  // in the step that runs
  int64_t max_tokens_ = 0;         // that fit
  int64_t generated_ = 0;
  int64_t scored_ = 0;   // prompt tokens whose successor's log-probability is out
  bool opened_ = false;  // the first token's empty log-probability is out
  int64_t cached_ = 0;   // tokens that another cache gave at the first start; -1: told
  bool started_ = false;
  bool finished_ = false;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SEQUENCE_H_
