#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "worker/quantize/hessian_accumulator.h"

namespace shiftadd::quantize {
namespace {

constexpr int64_t kWidth = 70, kTokens = 50, kSequences = 6;

std::vector<std::vector<float>> Sequences() {
  std::mt19937 engine(3);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> out(kSequences);
  for (auto& x : out) {
    x.resize(kTokens * kWidth);
    for (float& value : x) value = normal(engine);
    for (int64_t t = 0; t < kTokens; ++t) x[t * kWidth + 5] = 0.0f;    // a dead input
    for (int64_t i = 0; i < kWidth; ++i) x[2 * kWidth + i] = 0.0f;     // a token of zeros
    for (int64_t i = 0; i < kWidth; ++i) x[3 * kWidth + i] *= 100.0f;  // a loud one
  }
  return out;
}

// Token weights of any sequence; some tokens do not matter at all.
std::vector<float> Guidance() {
  std::vector<float> s(kTokens);
  for (int64_t t = 0; t < kTokens; ++t)
    s[t] = t % 7 == 3 ? 0.0f : 1e-6f * static_cast<float>(t * t);
  return s;
}

const float* WeightsFor(QuantHessian kind, const std::vector<float>& guidance) {
  return kind == QuantHessian::kGuided ? guidance.data() : nullptr;
}

std::vector<double> Naive(const std::vector<std::vector<float>>& sequences, QuantHessian kind) {
  std::vector<double> h(kWidth * kWidth, 0.0);
  for (const auto& x : sequences) {
    for (int64_t t = 0; t < kTokens; ++t) {
      const float* row = x.data() + t * kWidth;
      double s = 1.0, square = 0.0;
      for (int64_t i = 0; i < kWidth; ++i) square += static_cast<double>(row[i]) * row[i];
      if (kind == QuantHessian::kRms) s = square > 0.0 ? kWidth / square : 0.0;
      if (kind == QuantHessian::kGuided) s = Guidance()[t];
      for (int64_t i = 0; i < kWidth; ++i) {
        for (int64_t j = 0; j < kWidth; ++j) h[i * kWidth + j] += s * row[i] * row[j];
      }
    }
  }
  for (double& value : h) value /= kTokens * kSequences;
  return h;
}

class HessianTest : public ::testing::TestWithParam<QuantHessian> {};

TEST_P(HessianTest, MatchesTheDefinition) {
  const auto sequences = Sequences();
  const std::vector<double> expected = Naive(sequences, GetParam());
  const std::vector<float> guidance = Guidance();
  const float* s_t = WeightsFor(GetParam(), guidance);
  auto accumulator = HessianAccumulator::Create(kWidth, GetParam());
  for (int64_t s = 0; s < kSequences; ++s) accumulator->Add(s, sequences[s].data(), kTokens, s_t);
  const auto h = accumulator->Finish();
  ASSERT_TRUE(h.ok()) << h.status();
  EXPECT_EQ(h->tokens, kTokens * kSequences);
  for (int64_t i = 0; i < kWidth * kWidth; ++i) {
    const double scale =
        std::sqrt(expected[i / kWidth * (kWidth + 1)] * expected[i % kWidth * (kWidth + 1)]);
    ASSERT_NEAR(h->h[i], expected[i], 1e-5 * scale) << i;
  }
}

TEST_P(HessianTest, OrderAndThreadsDoNotMatter) {
  const auto sequences = Sequences();
  const std::vector<float> guidance = Guidance();
  const float* s_t = WeightsFor(GetParam(), guidance);
  auto in_order = HessianAccumulator::Create(kWidth, GetParam());
  for (int64_t s = 0; s < kSequences; ++s) in_order->Add(s, sequences[s].data(), kTokens, s_t);
  auto backwards = HessianAccumulator::Create(kWidth, GetParam());
  for (int64_t s = kSequences - 1; s >= 0; --s)
    backwards->Add(s, sequences[s].data(), kTokens, s_t);
  auto threaded = HessianAccumulator::Create(kWidth, GetParam());
  std::vector<std::thread> threads;
  for (int64_t s = 0; s < kSequences; ++s) {
    threads.emplace_back([&, s] { threaded->Add(s, sequences[s].data(), kTokens, s_t); });
  }
  for (std::thread& t : threads) t.join();
  const auto expected = in_order->Finish();
  ASSERT_TRUE(expected.ok());
  EXPECT_EQ(backwards->Finish()->h, expected->h);
  EXPECT_EQ(threaded->Finish()->h, expected->h);
}

// Parts of the sequences, summed apart and added.
TEST_P(HessianTest, PartsAdd) {
  const auto sequences = Sequences();
  const std::vector<float> guidance = Guidance();
  const float* s_t = WeightsFor(GetParam(), guidance);
  HessianSum total;
  for (int64_t begin = 0; begin < kSequences; begin += 4) {
    auto part = HessianAccumulator::Create(kWidth, GetParam());
    for (int64_t s = begin; s < std::min(begin + 4, kSequences); ++s) {
      part->Add(s - begin, sequences[s].data(), kTokens, s_t);
    }
    const auto sum = part->FinishSum();
    ASSERT_TRUE(sum.ok()) << sum.status();
    ASSERT_TRUE(AddHessianSum(*sum, &total).ok());
  }
  EXPECT_EQ(total.tokens, kTokens * kSequences);
  const auto h = FinishHessian(total);
  ASSERT_TRUE(h.ok());
  const std::vector<double> expected = Naive(sequences, GetParam());
  for (int64_t i = 0; i < kWidth * kWidth; ++i) {
    const double scale =
        std::sqrt(expected[i / kWidth * (kWidth + 1)] * expected[i % kWidth * (kWidth + 1)]);
    ASSERT_NEAR(h->h[i], expected[i], 1e-5 * scale) << i;
  }
  HessianSum narrow;
  narrow.k = 3;
  narrow.sum.resize(9);
  EXPECT_EQ(AddHessianSum(narrow, &total).code(), absl::StatusCode::kInvalidArgument);
  narrow.sum.pop_back();
  EXPECT_EQ(FinishHessian(narrow).status().code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Kinds, HessianTest,
                         ::testing::Values(QuantHessian::kPlain, QuantHessian::kRms,
                                           QuantHessian::kGuided));

TEST(Hessian, BadInputIsAnError) {
  auto sequences = Sequences();
  auto missing = HessianAccumulator::Create(kWidth, QuantHessian::kPlain);
  EXPECT_EQ(missing->Finish().status().code(), absl::StatusCode::kFailedPrecondition);
  missing->Add(1, sequences[0].data(), kTokens, nullptr);
  EXPECT_EQ(missing->Finish().status().code(), absl::StatusCode::kFailedPrecondition);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30f}) {
    auto poisoned = HessianAccumulator::Create(kWidth, QuantHessian::kPlain);
    std::vector<float> x = sequences[0];
    x[17] = bad;
    poisoned->Add(0, x.data(), kTokens, nullptr);
    EXPECT_EQ(poisoned->Finish().status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  auto twice = HessianAccumulator::Create(kWidth, QuantHessian::kPlain);
  twice->Add(0, sequences[0].data(), kTokens, nullptr);
  twice->Add(0, sequences[0].data(), kTokens, nullptr);
  EXPECT_EQ(twice->Finish().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Hessian, BadTokenWeightsAreErrors) {
  const auto sequences = Sequences();
  const auto status = [&](const float* weights) {
    auto guided = HessianAccumulator::Create(kWidth, QuantHessian::kGuided);
    guided->Add(0, sequences[0].data(), kTokens, weights);
    return guided->Finish().status();
  };
  EXPECT_TRUE(status(Guidance().data()).ok());
  EXPECT_EQ(status(nullptr).code(), absl::StatusCode::kInvalidArgument);
  for (const float bad :
       {-1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> weights = Guidance();
    weights[9] = bad;
    EXPECT_EQ(status(weights.data()).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status(weights.data()).message().find("token 9"), std::string::npos);
  }
}

TEST(Hessian, IsZeroWithoutATokenThatCounts) {
  const struct {
    float x;
    QuantHessian kind;
    bool zero;
  } cases[] = {{1e-16f, QuantHessian::kRms, true},
               {1e-16f, QuantHessian::kPlain, false},
               {0.0f, QuantHessian::kRms, true},
               {0.0f, QuantHessian::kPlain, true}};
  for (const auto& c : cases) {
    const std::vector<float> x(2 * 3, c.x);
    const auto accumulator = HessianAccumulator::Create(3, c.kind);
    accumulator->Add(0, x.data(), 2, nullptr);
    const HessianSum sum = accumulator->FinishSum().value();
    EXPECT_EQ(IsZero(sum), c.zero) << c.x;
    EXPECT_EQ(IsZero(FinishHessian(sum).value()), c.zero) << c.x;
  }
}

TEST(Hessian, NoTokensGiveZeros) {
  auto empty = HessianAccumulator::Create(kWidth, QuantHessian::kPlain);
  empty->Add(0, nullptr, 0, nullptr);
  const auto h = empty->Finish();
  ASSERT_TRUE(h.ok()) << h.status();
  EXPECT_EQ(h->tokens, 0);
  EXPECT_EQ(h->h, std::vector<double>(kWidth * kWidth, 0.0));
}

}  // namespace
}  // namespace shiftadd::quantize
