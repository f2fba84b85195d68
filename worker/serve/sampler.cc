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
  if (!token.ok()) return token;
  ++drawn_;
  if (params_.frequency_penalty != 0 || params_.presence_penalty != 0) ++counts_[*token];
  return token;
}

void Sampler::Filter(std::vector<Candidate>* candidates) const {
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  if (params_.top_k > 0 && params_.top_k < static_cast<int64_t>(candidates->size())) {
    std::nth_element(candidates->begin(), candidates->begin() + (params_.top_k - 1),
                     candidates->end(), before);
    candidates->resize(params_.top_k);
  }
  const float maximum = std::min_element(candidates->begin(), candidates->end(), before)->logit;
  const auto weight = [&](const Candidate& c) {
    return std::exp(static_cast<double>(c.logit - maximum) / params_.temperature);
  };
  if (params_.top_p < 1) {
    double total = 0;
    for (const Candidate& c : *candidates) total += weight(c);
    // Tokens below this weight cannot be in the nucleus: all of them together weigh less than what
    // it leaves out.
    const double floor = (1 - params_.top_p) * total / static_cast<double>(candidates->size());
    std::erase_if(*candidates,
                  [&](const Candidate& c) { return weight(c) < floor && c.logit < maximum; });
    std::sort(candidates->begin(), candidates->end(), before);
    double sum = 0;
    size_t keep = 0;
    while (keep < candidates->size() && (keep == 0 || sum < params_.top_p * total)) {
      sum += weight((*candidates)[keep++]);
    }
    candidates->resize(keep);
  }
  if (params_.min_p > 0) {
    std::erase_if(*candidates, [&](const Candidate& c) { return weight(c) < params_.min_p; });
  }
  // One order for the draw, whatever the filters did.
  std::sort(candidates->begin(), candidates->end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
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
  std::vector<Candidate> candidates;
  candidates.reserve(vocab);
  for (int64_t i = 0; i < vocab; ++i) {
    if (!std::isnan(logits[i])) candidates.push_back({logits[i], static_cast<int32_t>(i)});
  }
  Filter(&candidates);
  const double maximum = static_cast<double>(logits[best]);
  std::vector<double> sums;
  sums.reserve(candidates.size());
  double total = 0;
  for (const Candidate& c : candidates) {
    total += std::exp((static_cast<double>(c.logit) - maximum) / params_.temperature);
    sums.push_back(total);
  }
  const double draw = CounterUniform(params_.seed, stream_, drawn_) * total;
  const size_t i = std::upper_bound(sums.begin(), sums.end(), draw) - sums.begin();
  return candidates[std::min(i, candidates.size() - 1)].token;
}

}  // namespace shiftadd
