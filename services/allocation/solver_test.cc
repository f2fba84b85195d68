#include "services/allocation/solver.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

namespace shiftadd::allocation {
namespace {

std::vector<LayerChoices> RandomLayers(std::mt19937_64* rng, size_t layers, size_t max_choices,
                                       uint64_t max_cost) {
  std::vector<LayerChoices> out;
  std::uniform_int_distribution<uint64_t> cost(0, max_cost), count(1, max_choices);
  std::uniform_int_distribution<int> value(0, 20);  // small integers: ties happen
  for (size_t l = 0; l < layers; ++l) {
    LayerChoices layer{"layer" + std::to_string(l), {}};
    const uint64_t n = count(*rng);
    for (uint64_t i = 0; i < n; ++i) {
      layer.choices.push_back({static_cast<int>(i) + 2, cost(*rng), value(*rng) / 4.0});
    }
    out.push_back(std::move(layer));
  }
  return out;
}

// The least value that fits, or infinity.
double BruteForce(const std::vector<LayerChoices>& layers, uint64_t budget) {
  double best = std::numeric_limits<double>::infinity();
  std::function<void(size_t, uint64_t, double)> walk = [&](size_t l, uint64_t cost, double value) {
    if (cost > budget) return;
    if (l == layers.size()) {
      best = std::min(best, value);
      return;
    }
    for (const Choice& c : layers[l].choices) walk(l + 1, cost + c.cost, value + c.value);
  };
  walk(0, 0, 0);
  return best;
}

void ExpectConsistent(const std::vector<LayerChoices>& layers, uint64_t budget, const Solution& s) {
  ASSERT_EQ(s.picked.size(), layers.size());
  uint64_t cost = 0;
  double value = 0;
  for (size_t l = 0; l < layers.size(); ++l) {
    ASSERT_GE(s.picked[l], 0);
    ASSERT_LT(s.picked[l], static_cast<int>(layers[l].choices.size()));
    cost += layers[l].choices[s.picked[l]].cost;
    value += layers[l].choices[s.picked[l]].value;
  }
  EXPECT_EQ(s.cost, cost);
  EXPECT_DOUBLE_EQ(s.value, value);
  EXPECT_LE(s.cost, budget);
}

// Predicted losses are tiny, relative errors times weights are huge: a factor changes nothing.
TEST(Solve, DoesNotDependOnTheScaleOfTheValues) {
  std::mt19937_64 rng(11);
  std::uniform_real_distribution<double> noise(0.5, 2.0);
  std::vector<LayerChoices> layers;
  uint64_t weights = 0;
  for (int l = 0; l < 60; ++l) {
    const uint64_t size = 64 * (1 + rng() % 50);
    weights += size;
    LayerChoices layer{"layer" + std::to_string(l), {}};
    const double sensitivity = noise(rng);
    for (int q = 2; q <= 4; ++q) {
      layer.choices.push_back({q, q * size, sensitivity * noise(rng) * std::pow(0.25, q)});
    }
    layers.push_back(std::move(layer));
  }
  const auto expected = Solve(layers, 5 * weights / 2);
  ASSERT_TRUE(expected.ok());
  EXPECT_EQ(expected->gap, 0);
  for (const int exponent : {-200, -60, -30, 30, 60, 200}) {
    std::vector<LayerChoices> scaled = layers;
    for (LayerChoices& layer : scaled) {
      for (Choice& c : layer.choices) c.value = std::ldexp(c.value, exponent);
    }
    const auto found = Solve(scaled, 5 * weights / 2);
    ASSERT_TRUE(found.ok());
    EXPECT_EQ(found->picked, expected->picked) << exponent;
    EXPECT_EQ(found->value, std::ldexp(expected->value, exponent));
    EXPECT_EQ(found->gap, 0);
  }
}

TEST(Solve, EqualsBruteForceOnRandomInstances) {
  std::mt19937_64 rng(7);
  int feasible = 0;
  for (int round = 0; round < 3000; ++round) {
    const auto layers = RandomLayers(&rng, 1 + round % 8, 4, round % 2 ? 12 : 1000);
    const uint64_t budget = std::uniform_int_distribution<uint64_t>(0, round % 2 ? 60 : 5000)(rng);
    const double expected = BruteForce(layers, budget);
    const auto got = Solve(layers, budget);
    if (std::isinf(expected)) {
      EXPECT_EQ(got.status().code(), absl::StatusCode::kFailedPrecondition);
      continue;
    }
    ++feasible;
    ASSERT_TRUE(got.ok()) << got.status();
    ExpectConsistent(layers, budget, *got);
    EXPECT_DOUBLE_EQ(got->value, expected) << "round " << round;
    EXPECT_EQ(got->gap, 0);
  }
  EXPECT_GT(feasible, 1000);
}

TEST(Solve, CappedStatesAnHonestGap) {
  std::mt19937_64 rng(3);
  int with_gap = 0;
  for (int round = 0; round < 500; ++round) {
    const auto layers = RandomLayers(&rng, 8, 4, 1000);
    const uint64_t budget = 2500;
    const double expected = BruteForce(layers, budget);
    const auto got = Solve(layers, budget, {.max_states = 2});
    if (std::isinf(expected)) continue;
    ASSERT_TRUE(got.ok()) << got.status();
    ExpectConsistent(layers, budget, *got);
    if (got->gap > 0) ++with_gap;
    EXPECT_LE(got->value, expected * (1 + got->gap) + 1e-12) << "round " << round;
  }
  EXPECT_GT(with_gap, 0);
}

TEST(Solve, LargeModelIsExact) {
  // 300 layers of realistic shapes: cost in bytes, errors falling about fivefold a bit.
  std::mt19937_64 rng(11);
  std::uniform_real_distribution<double> sensitivity(0.1, 3.0);
  std::vector<LayerChoices> layers;
  uint64_t three_bits = 0;
  for (int l = 0; l < 300; ++l) {
    const uint64_t n = 576 + 64 * (l % 7), k = 576 + 320 * (l % 4);
    LayerChoices layer{"l" + std::to_string(l), {}};
    const double s = sensitivity(rng) * static_cast<double>(n * k);
    for (int q = 2; q <= 4; ++q) {
      layer.choices.push_back(
          {q, q * n * ((k + 31) / 32) * 4 + 2 * n * ((k + 127) / 128) + n, s * std::pow(0.21, q)});
    }
    three_bits += layer.choices[1].cost;
    layers.push_back(std::move(layer));
  }
  const auto got = Solve(layers, three_bits);
  ASSERT_TRUE(got.ok()) << got.status();
  ExpectConsistent(layers, three_bits, *got);
  EXPECT_EQ(got->gap, 0);
  const auto uniform = BestUniform(layers, three_bits);
  ASSERT_TRUE(uniform.ok());
  EXPECT_EQ(uniform->picked, std::vector<int>(300, 1));
  EXPECT_LT(got->value, uniform->value);
}

TEST(Solve, TiesGoToTheEarlierChoice) {
  const std::vector<LayerChoices> layers = {{"a", {{2, 5, 1.0}, {3, 5, 1.0}}},
                                            {"b", {{2, 5, 2.0}, {3, 5, 2.0}}}};
  const auto got = Solve(layers, 10);
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->picked, (std::vector<int>{0, 0}));
}

TEST(Solve, BadInput) {
  EXPECT_EQ(Solve({}, 10).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Solve({{"a", {}}}, 10).status().code(), absl::StatusCode::kInvalidArgument);
  const auto nan = Solve({{"blocks.0.attn.q", {{3, 1, std::nan("")}}}}, 10);
  EXPECT_EQ(nan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(nan.status().message().find("blocks.0.attn.q"), std::string::npos);
  EXPECT_EQ(Solve({{"a", {{3, 1, -1.0}}}}, 10).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Solve, InfeasibleSaysWhatWouldFit) {
  const auto got = Solve({{"a", {{2, 70, 1}, {3, 100, 0.5}}}, {"b", {{2, 30, 1}}}}, 99);
  EXPECT_EQ(got.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(got.status().message().find("100"), std::string::npos) << got.status();
  EXPECT_TRUE(Solve({{"a", {{2, 70, 1}, {3, 100, 0.5}}}, {"b", {{2, 30, 1}}}}, 100).ok());
}

TEST(BestUniform, WidestThatFits) {
  const std::vector<LayerChoices> layers = {{"a", {{2, 20, 4}, {3, 30, 2}, {4, 40, 1}}},
                                            {"fixed", {{8, 5, 0}}},
                                            {"b", {{3, 30, 2}, {4, 40, 1}}}};
  EXPECT_EQ(BestUniform(layers, 84)->picked, (std::vector<int>{1, 0, 0}));
  EXPECT_EQ(BestUniform(layers, 85)->picked, (std::vector<int>{2, 0, 1}));
  EXPECT_EQ(BestUniform(layers, 64).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(BestUniform({{"a", {{2, 1, 1}, {3, 1, 1}}}, {"b", {{4, 1, 1}, {5, 1, 1}}}}, 9)
                .status()
                .code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace shiftadd::allocation
