#include "worker/serve/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

namespace shiftadd {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

SamplingParams At(double temperature) {
  SamplingParams params;
  params.temperature = temperature;
  params.seed = 7;
  return params;
}

// How often each token is drawn.
std::vector<double> Frequencies(const SamplingParams& params, const std::vector<float>& logits) {
  constexpr int kDraws = 40000;
  Sampler sampler(params, 0);
  std::vector<double> counts(logits.size());
  for (int i = 0; i < kDraws; ++i) {
    counts[*sampler.Next(logits.data(), static_cast<int64_t>(logits.size()))] += 1.0 / kDraws;
  }
  return counts;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargest) {
  const std::vector<float> logits = {1, 5, 3, 5};
  Sampler sampler(At(0), 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(*sampler.Next(logits.data(), 4), 1);
}

TEST(Sampler, DrawsFromTheSoftmax) {
  const std::vector<float> logits = {0, 1, 2, -1};
  for (const double temperature : {0.5, 1.0, 2.0}) {
    double total = 0;
    for (const float l : logits) total += std::exp(l / temperature);
    const auto got = Frequencies(At(temperature), logits);
    // Four standard deviations of 40000 draws are at most 0.01.
    for (size_t i = 0; i < logits.size(); ++i) {
      EXPECT_NEAR(got[i], std::exp(logits[i] / temperature) / total, 0.01) << temperature;
    }
  }
}

TEST(Sampler, FiltersKeepTheLikeliest) {
  const std::vector<float> logits = {std::log(0.05f), std::log(0.5f), std::log(0.15f),
                                     std::log(0.3f)};
  SamplingParams top_k = At(1);
  top_k.top_k = 2;
  auto got = Frequencies(top_k, logits);
  EXPECT_NEAR(got[1], 0.5 / 0.8, 0.01);
  EXPECT_NEAR(got[3], 0.3 / 0.8, 0.01);
  EXPECT_EQ(got[0] + got[2], 0);
  SamplingParams top_p = At(1);
  top_p.top_p = 0.85;  // 0.5 + 0.3 do not reach it, 0.15 more do
  got = Frequencies(top_p, logits);
  EXPECT_EQ(got[0], 0);
  EXPECT_NEAR(got[2], 0.15 / 0.95, 0.01);
  top_p.top_p = 0;
  EXPECT_NEAR(Frequencies(top_p, logits)[1], 1, 1e-9);
  SamplingParams min_p = At(1);
  min_p.min_p = 0.5;  // at least half of 0.5
  got = Frequencies(min_p, logits);
  EXPECT_EQ(got[0] + got[2], 0);
  EXPECT_NEAR(got[3], 0.3 / 0.8, 0.01);
}

TEST(Sampler, SurvivesNaNsAndInfinities) {
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler(At(temperature), 0);
    const std::vector<float> some = {kNan, -kInf, 1, kNan};
    for (int i = 0; i < 20; ++i) EXPECT_EQ(*sampler.Next(some.data(), 4), 2);
    const std::vector<float> none = {kNan, kNan};
    EXPECT_EQ(sampler.Next(none.data(), 2).status().code(), absl::StatusCode::kInternal);
    const std::vector<float> lost = {-kInf, -kInf};
    EXPECT_EQ(sampler.Next(lost.data(), 2).status().code(), absl::StatusCode::kInternal);
    const std::vector<float> certain = {3, kInf, kNan};
    EXPECT_EQ(*sampler.Next(certain.data(), 3), 1);
  }
}

TEST(Sampler, TheSameSeedDrawsTheSame) {
  const std::vector<float> logits(100, 0.0f);
  const auto draw = [&](uint64_t seed, uint64_t stream) {
    SamplingParams params = At(1);
    params.seed = seed;
    Sampler sampler(params, stream);
    std::vector<int32_t> out;
    for (int i = 0; i < 16; ++i) out.push_back(*sampler.Next(logits.data(), 100));
    return out;
  };
  EXPECT_EQ(draw(1, 0), draw(1, 0));
  EXPECT_NE(draw(1, 0), draw(2, 0));
  EXPECT_NE(draw(1, 0), draw(1, 1));
}

TEST(Sampler, PenaltiesWeighOnWhatWasGenerated) {
  const std::vector<float> logits = {1.0f, 0.9f, 0.7f};
  SamplingParams params = At(0);
  params.frequency_penalty = 0.15;
  Sampler sampler(params, 0);
  std::vector<int32_t> out;
  for (int i = 0; i < 4; ++i) out.push_back(*sampler.Next(logits.data(), 3));
  // 1.0, then 0.85 against 0.9, then 0.85 against 0.75, then 0.70 0.75 0.7.
  EXPECT_EQ(out, (std::vector<int32_t>{0, 1, 0, 1}));
}

TEST(Sampler, ARepetitionPenaltyWeighsOnThePromptToo) {
  const std::vector<float> logits = {2.0f, 1.5f, -0.5f, -0.6f};
  SamplingParams params = At(0);
  params.repetition_penalty = 2;
  EXPECT_FALSE(Sampler(params, 0).IsPlain());
  Sampler sampler(params, 0, VectorOpsFor(kernels::DetectIsa()), {0});
  // 1.0 against 1.5, then against 0.75; once each, however often it was there.
  EXPECT_EQ(*sampler.Next(logits.data(), 4), 1);
  EXPECT_EQ(*sampler.Next(logits.data(), 4), 0);
  EXPECT_EQ(*sampler.Next(logits.data(), 4), 0);
  // Below 0 it multiplies: -1.0 against -0.6.
  const std::vector<float> below(logits.begin() + 2, logits.end());
  Sampler other(params, 0, VectorOpsFor(kernels::DetectIsa()), {0});
  EXPECT_EQ(*other.Next(below.data(), 2), 1);
  params.repetition_penalty = 1;
  EXPECT_TRUE(Sampler(params, 0).IsPlain());
}

TEST(Sampler, TopTokensFallWithTiesInOrder) {
  const std::vector<float> logits = {1, 4, kNan, 4, 2, 3};
  const auto top = TopTokens(logits.data(), 6, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].first, 1);
  EXPECT_EQ(top[1].first, 3);
  EXPECT_EQ(top[2].first, 5);
  EXPECT_EQ(TopTokens(logits.data(), 6, 100).size(), 5u);
  EXPECT_TRUE(TopTokens(logits.data(), 6, 0).empty());
}

TEST(Sampler, UniformNumbersAreUniform) {
  double sum = 0;
  std::set<double> seen;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double u = CounterUniform(3, 0, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    seen.insert(u);
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.015);
  EXPECT_EQ(seen.size(), 10000u);
}

}  // namespace
}  // namespace shiftadd
