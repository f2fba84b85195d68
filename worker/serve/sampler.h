// The next token from its logits.
#ifndef SHIFTADD_WORKER_SERVE_SAMPLER_H_
#define SHIFTADD_WORKER_SERVE_SAMPLER_H_

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu_linear.h"
#include "worker/serve/vector_ops.h"

namespace shiftadd {

// Filters apply in this order: bias, penalties (repetition first), temperature, top_k, top_p (of
// what top_k left), min_p (against the likeliest token).
struct SamplingParams {
  double temperature = 0;  // 0: greedy
  double top_p = 1;        // (0, 1]
  int64_t top_k = 0;       // 0: all
  double min_p = 0;        // [0, 1]
  uint64_t seed = 0;
  double frequency_penalty = 0;  // times how often a token was generated
  double presence_penalty = 0;   // once it was generated
  // Over 0: divides a logit above 0, multiplies one below, of what stands in the prompt or was
  // generated. 1: none.
  double repetition_penalty = 1;
  std::map<int32_t, double> logit_bias;
};

// A number in [0, 1) that is a function of its arguments only, so that a request draws the same
// ones whatever runs beside it.
double CounterUniform(uint64_t seed, uint64_t stream, uint64_t counter);

// The sampler of one sequence that begins with `prompt`. `stream` tells apart the choices of one
// request. Not thread-safe.
class Sampler {
 public:
  Sampler(SamplingParams params, uint64_t stream,
          const VectorOps& ops = VectorOpsFor(kernels::DetectIsa()),
          const std::vector<int32_t>& prompt = {})
      : params_(std::move(params)), stream_(stream), ops_(ops) {
    if (params_.repetition_penalty != 1) seen_.insert(prompt.begin(), prompt.end());
  }

  // Draws a token and counts it. NaN logits are never drawn; ties go to the lower id. INTERNAL if
  // there is no number among the logits.
  absl::StatusOr<int32_t> Next(const float* logits, int64_t vocab);

  // For a model that draws itself (PackedModel::ForwardSample): whether nothing but the temperature
  // counts, the number of the next draw, and that a token was drawn.
  bool IsPlain() const;
  double NextUniform() const { return CounterUniform(params_.seed, stream_, drawn_); }
  void Count(int32_t token);

 private:
  struct Candidate {
    double weight;  // exp((logit - the largest logit) / temperature)
    float logit;
    int32_t token;
  };
  // Bias and penalties; null stays null: nothing to apply.
  const float* Adjust(const float* logits, int64_t vocab);
  absl::StatusOr<int32_t> Draw(const float* logits, int64_t vocab);
  // Weighs all tokens, a sum for each kBlock of them; gives the sum of those.
  double Weigh(const float* logits, int64_t vocab, float maximum);
  // The token at `draw` of what Weigh summed.
  int32_t Walk(const float* logits, int64_t vocab, float maximum, double draw);
  // Fills candidates_ with the top_k, or with all tokens that the filters can leave; gives the
  // weight of the top_k or of all.
  double Collect(const float* logits, int64_t vocab, float maximum);
  // Leaves the likeliest candidates that together have top_p of `total`.
  void KeepNucleus(double total);
  // One of the candidates, by their weights.
  int32_t DrawCandidate();

  SamplingParams params_;
  uint64_t stream_;
  const VectorOps& ops_;
  uint64_t drawn_ = 0;
  std::map<int32_t, int64_t> counts_;  // of what was generated
  std::set<int32_t> seen_;             // with the prompt; empty without a repetition penalty
  std::vector<float> adjusted_;
  // Kept for their memory.
  std::vector<Candidate> candidates_;
  std::vector<float> sums_, weights_;
};

// The first of the largest logits; -1 if all are NaN.
int32_t ArgMax(const float* logits, int64_t vocab);

// The `count` likeliest tokens with their logits, falling; ties go to the lower id; NaNs are left
// out.
std::vector<std::pair<int32_t, float>> TopTokens(const float* logits, int64_t vocab, int64_t count);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SAMPLER_H_
