#include "worker/serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace shiftadd {
namespace {

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
uint64_t Mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

double CounterUniform(uint64_t seed, uint64_t stream, uint64_t counter) {
  const uint64_t bits = Mix(Mix(Mix(seed) ^ stream) ^ counter);
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

int32_t ArgMax(const float* logits, int64_t vocab) {
  int32_t best = -1;
  for (int64_t i = 0; i < vocab; ++i) {
    if (std::isnan(logits[i])) continue;
    if (best < 0 || logits[i] > logits[best]) best = static_cast<int32_t>(i);
  }
  return best;
}

std::vector<std::pair<int32_t, float>> TopTokens(const float* logits, int64_t vocab,
                                                 int64_t count) {
  std::vector<std::pair<int32_t, float>> top;
  if (count <= 0) return top;
  const auto before = [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  };
  // A heap of the best so far, its worst on top: most tokens fail one comparison.
  for (int64_t i = 0; i < vocab; ++i) {
    if (std::isnan(logits[i])) continue;
    if (static_cast<int64_t>(top.size()) == count) {
      if (!(logits[i] > top.front().second)) continue;
      std::pop_heap(top.begin(), top.end(), before);
      top.pop_back();
    }
    top.emplace_back(static_cast<int32_t>(i), logits[i]);
    std::push_heap(top.begin(), top.end(), before);
  }
  std::sort(top.begin(), top.end(), before);
  return top;
}

const float* Sampler::Adjust(const float* logits, int64_t vocab) {
  const bool penalties = params_.frequency_penalty != 0 || params_.presence_penalty != 0;
  if (params_.logit_bias.empty() && !(penalties && !counts_.empty())) return logits;
  adjusted_.assign(logits, logits + vocab);
  for (const auto& [token, bias] : params_.logit_bias) {
    adjusted_[token] += static_cast<float>(bias);
  }
  if (penalties) {
    for (const auto& [token, count] : counts_) {
      adjusted_[token] -= static_cast<float>(
          params_.frequency_penalty * static_cast<double>(count) + params_.presence_penalty);
    }
  }
  return adjusted_.data();
}

absl::StatusOr<int32_t> Sampler::Next(const float* logits, int64_t vocab) {
  logits = Adjust(logits, vocab);
  absl::StatusOr<int32_t> token = Draw(logits, vocab);
  if (token.ok()) Count(*token);
  return token;
}

bool Sampler::IsPlain() const {
  return params_.top_p >= 1 && params_.top_k <= 0 && params_.min_p <= 0 &&
         params_.frequency_penalty == 0 && params_.presence_penalty == 0 &&
         params_.logit_bias.empty();
}

void Sampler::Count(int32_t token) {
  ++drawn_;
  if (params_.frequency_penalty != 0 || params_.presence_penalty != 0) ++counts_[token];
}

void Sampler::Collect(const float* logits, int64_t vocab, float maximum) {
  candidates_.clear();
  const auto add = [&](int32_t token, float logit) {
    const double below = static_cast<double>(logit) - static_cast<double>(maximum);
    candidates_.push_back({std::exp(below / params_.temperature), logit, token});
  };
  if (params_.top_k > 0 && params_.top_k < vocab) {
    for (const auto& [token, logit] : TopTokens(logits, vocab, params_.top_k)) add(token, logit);
    return;
  }
  candidates_.reserve(static_cast<size_t>(vocab));
  for (int64_t i = 0; i < vocab; ++i) {
    if (!std::isnan(logits[i])) add(static_cast<int32_t>(i), logits[i]);
  }
}

void Sampler::KeepNucleus(float maximum) {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  // Tokens below this weight cannot be in the nucleus: all of them together weigh less than what
  // it leaves out.
  const double floor = (1 - params_.top_p) * total / static_cast<double>(candidates_.size());
  std::erase_if(candidates_,
                [&](const Candidate& c) { return c.weight < floor && c.logit < maximum; });
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  });
  double sum = 0;
  size_t keep = 0;
  while (keep < candidates_.size() && (keep == 0 || sum < params_.top_p * total)) {
    sum += candidates_[keep++].weight;
  }
  candidates_.resize(keep);
}

absl::StatusOr<int32_t> Sampler::Draw(const float* logits, int64_t vocab) {
  const int32_t best = ArgMax(logits, vocab);
  if (best < 0 || logits[best] == -std::numeric_limits<float>::infinity()) {
    return absl::InternalError("the model gave no finite logit");
  }
  // Below this the likeliest token has all the weight that a double can tell.
  if (params_.temperature < 1e-6 || logits[best] == std::numeric_limits<float>::infinity()) {
    return best;
  }
  Collect(logits, vocab, logits[best]);
  if (params_.top_p < 1) KeepNucleus(logits[best]);
  if (params_.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < params_.min_p; });
  }
  // One order for the draw, whatever the filters did. All tokens come in this order: sorting them
  // again would take as long as the model.
  const auto by_token = [](const Candidate& a, const Candidate& b) { return a.token < b.token; };
  if (!std::is_sorted(candidates_.begin(), candidates_.end(), by_token)) {
    std::sort(candidates_.begin(), candidates_.end(), by_token);
  }
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  const double draw = CounterUniform(params_.seed, stream_, drawn_) * total;
  double sum = 0;
  for (const Candidate& c : candidates_) {
    sum += c.weight;
    if (sum > draw) return c.token;
  }
  return candidates_.back().token;
}

}  // namespace shiftadd
