#include "worker/serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace shiftadd {
namespace {

// Tokens whose weights are summed in single precision.
constexpr int64_t kBlock = 1024;
// How far single-precision weights and their sums may be off, generously.
constexpr double kSlack = 1e-4;

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
  const VectorOps& ops = VectorOpsFor(kernels::DetectIsa());
  float maximum = -std::numeric_limits<float>::infinity();
  const float* begin = logits;  // of the first block that has the maximum
  for (int64_t i = 0; i < vocab; i += kBlock) {
    const float largest = ops.maximum(logits + i, std::min(kBlock, vocab - i));
    if (!(largest > maximum)) continue;
    maximum = largest;
    begin = logits + i;
  }
  // A NaN equals nothing; -infinity may be there or not.
  const float* at = std::find(begin, logits + vocab, maximum);
  return at == logits + vocab ? -1 : static_cast<int32_t>(at - logits);
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
  if (params_.logit_bias.empty() && !(penalties && !counts_.empty()) && seen_.empty()) {
    return logits;
  }
  adjusted_.assign(logits, logits + vocab);
  for (const auto& [token, bias] : params_.logit_bias) {
    adjusted_[token] += static_cast<float>(bias);
  }
  for (const int32_t token : seen_) {
    const float penalty = static_cast<float>(params_.repetition_penalty);
    adjusted_[token] =
        adjusted_[token] > 0 ? adjusted_[token] / penalty : adjusted_[token] * penalty;
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
         params_.repetition_penalty == 1 && params_.logit_bias.empty();
}

void Sampler::Count(int32_t token) {
  ++drawn_;
  if (params_.frequency_penalty != 0 || params_.presence_penalty != 0) ++counts_[token];
  if (params_.repetition_penalty != 1) seen_.insert(token);
}

double Sampler::Weigh(const float* logits, int64_t vocab, float maximum) {
  const float scale = static_cast<float>(1 / params_.temperature);
  sums_.clear();
  double total = 0;
  for (int64_t i = 0; i < vocab; i += kBlock) {
    const int64_t n = std::min(kBlock, vocab - i);
    sums_.push_back(ops_.softmax_weights(logits + i, n, maximum, scale, nullptr));
    total += static_cast<double>(sums_.back());
  }
  return total;
}

int32_t Sampler::Walk(const float* logits, int64_t vocab, float maximum, double draw) {
  double sum = 0;
  size_t block = 0, last = 0;  // the last one that has any weight
  for (; block < sums_.size(); ++block) {
    if (sums_[block] <= 0) continue;
    last = block;
    if (sum + static_cast<double>(sums_[block]) > draw) break;
    sum += static_cast<double>(sums_[block]);
  }
  const int64_t begin = static_cast<int64_t>(last) * kBlock;
  const int64_t n = std::min(kBlock, vocab - begin);
  weights_.resize(kBlock);
  ops_.softmax_weights(logits + begin, n, maximum, static_cast<float>(1 / params_.temperature),
                       weights_.data());
  // The block's sum was rounded: its last token with any weight takes what that left over.
  int64_t token = begin;
  for (int64_t i = 0; i < n; ++i) {
    if (weights_[i] <= 0) continue;
    token = begin + i;
    sum += static_cast<double>(weights_[i]);
    if (sum > draw) break;
  }
  return static_cast<int32_t>(token);
}

double Sampler::Collect(const float* logits, int64_t vocab, float maximum) {
  candidates_.clear();
  double total = 0;
  const auto add = [&](int32_t token, float logit) {
    const double below = static_cast<double>(logit) - static_cast<double>(maximum);
    candidates_.push_back({std::exp(below / params_.temperature), logit, token});
    total += candidates_.back().weight;
  };
  if (params_.top_k > 0 && params_.top_k < vocab) {
    for (const auto& [token, logit] : TopTokens(logits, vocab, params_.top_k)) add(token, logit);
    return total;
  }
  const double all = Weigh(logits, vocab, maximum);
  // Tokens below this weight cannot be left: all of them together weigh less than what top_p leaves
  // out, or min_p says so.
  const double least =
      std::max(params_.top_p < 1 ? (1 - params_.top_p) * all / static_cast<double>(vocab) : 0,
               params_.min_p) *
      (1 - kSlack);
  const float floor = static_cast<float>(static_cast<double>(maximum) +
                                         params_.temperature * std::log(least) - kSlack);
  for (int64_t i = 0; i < vocab; ++i) {
    if (logits[i] >= std::min(floor, maximum)) add(static_cast<int32_t>(i), logits[i]);
  }
  return all;
}

void Sampler::KeepNucleus(double total) {
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

int32_t Sampler::DrawCandidate() {
  // One order for the draw, whatever the filters did.
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  const double draw = NextUniform() * total;
  double sum = 0;
  for (const Candidate& c : candidates_) {
    sum += c.weight;
    if (sum > draw) return c.token;
  }
  return candidates_.back().token;
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
  const float maximum = logits[best];
  if (params_.top_p >= 1 && params_.min_p <= 0 && (params_.top_k <= 0 || params_.top_k >= vocab)) {
    const double total = Weigh(logits, vocab, maximum);
    return Walk(logits, vocab, maximum, NextUniform() * total);
  }
  const double total = Collect(logits, vocab, maximum);
  if (params_.top_p < 1) KeepNucleus(total);
  if (params_.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < params_.min_p; });
  }
  return DrawCandidate();
}

}  // namespace shiftadd
