// optq against a plain float64 reading: column by column, no tiles, no blocks of updates.
#include "worker/quantize/optq.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "worker/quantize/testing/layers.h"
#include "worker/quantize/testing/plain_reading.h"

namespace shiftadd::quantize {
namespace {

constexpr int64_t kN = 19, kK = 144, kGroup = 64;  // groups of 64, 64, 16

struct Result {
  std::vector<float> what;
  std::vector<int64_t> first;  // inputs of the group that was quantized first
};

Result NaiveOptq(const std::vector<float>& weights, const HessianMatrix& h, int q,
                 const QuantRecipe& recipe) {
  const auto diagonal = [&](int64_t i) { return h.h[i * (kK + 1)]; };
  std::vector<std::vector<int64_t>> groups;
  for (int64_t begin = 0; begin < kK; begin += kGroup) {
    groups.emplace_back();
    for (int64_t i = begin; i < std::min(begin + kGroup, kK); ++i) groups.back().push_back(i);
    std::stable_sort(groups.back().begin(), groups.back().end(),
                     [&](int64_t a, int64_t b) { return diagonal(a) > diagonal(b); });
  }
  const auto sum = [&](const std::vector<int64_t>& group) {
    double s = 0.0;
    for (const int64_t i : group) s += diagonal(i);
    return s;
  };
  if (sum(groups[1]) > sum(groups[0])) std::swap(groups[0], groups[1]);  // the short one is last
  std::vector<int64_t> order;
  for (const auto& group : groups) order.insert(order.end(), group.begin(), group.end());
  double mean = 0.0;
  for (int64_t i = 0; i < kK; ++i) mean += diagonal(i) / kK;
  std::vector<std::vector<double>> m(kK, std::vector<double>(kK)), w(kN, std::vector<double>(kK));
  for (int64_t i = 0; i < kK; ++i) {
    for (int64_t j = 0; j < kK; ++j) m[i][j] = h.h[order[i] * kK + order[j]];
    m[i][i] += recipe.damping * mean;
    for (int64_t r = 0; r < kN; ++r) w[r][i] = weights[r * kK + order[i]];
  }
  const auto u = testing::UpperOfInverse(m);
  Result out{std::vector<float>(kN * kK), groups[0]};
  const double top = (1 << q) - 1;
  for (int64_t r = 0; r < kN; ++r) {
    double step = 0.0, zero = 0.0;
    for (int64_t i = 0; i < kK; ++i) {
      if (i % kGroup == 0) {
        double low = 0.0, high = 0.0;
        for (int64_t j = i; j < std::min(i + kGroup, kK); ++j) {
          low = std::min(low, w[r][j]);
          high = std::max(high, w[r][j]);
        }
        step = (high - low) / top;
        zero = std::round(-low / step);
      }
      const double code = std::clamp(std::round(w[r][i] / step) + zero, 0.0, top);
      const double level = (code - zero) * step;
      const double e = (w[r][i] - level) / u[i][i];
      for (int64_t j = i; j < kK; ++j) w[r][j] -= e * u[i][j];
      out.what[r * kK + order[i]] = static_cast<float>(level);
    }
  }
  return out;
}

TEST(Optq, MatchesAPlainReading) {
  const std::vector<float> w = testing::GaussianWeights(kN, kK, 100);
  const HessianMatrix h = testing::CorrelatedHessian(kK, 101);
  QuantRecipe recipe = testing::Recipe(QuantMethod::kOptq);
  recipe.group = kGroup;
  const std::vector<float> zero(w.size(), 0.0f);
  const double base = testing::QuadraticError(w, zero, kN, h);
  for (const int q : {2, 3, 4, 8}) {
    const Result expected = NaiveOptq(w, h, q, recipe);
    const auto c = testing::Quantize(w, kN, kK, h, recipe, {q});
    ASSERT_TRUE(c.ok()) << c.status();
    const testing::LayerBlob blob((*c)[0].blob, 0);
    EXPECT_EQ(blob.matrix().encoding, kernels::Encoding::kBcqShift);
    EXPECT_NE(blob.matrix().zeta, nullptr);
    const std::vector<float> what = blob.Weights();
    int64_t same = 0;
    for (int64_t r = 0; r < kN; ++r) {
      for (const int64_t i : expected.first) {
        same += std::fabs(what[r * kK + i] - expected.what[r * kK + i]) < 2e-4f;
      }
    }
    EXPECT_GE(same, kN * kGroup * 9 / 10) << "q " << q;
    const double loss = testing::QuadraticError(w, expected.what, kN, h) / base;
    EXPECT_NEAR((*c)[0].output_error / loss, 1.0, 0.05) << "q " << q;
  }
}

TEST(Optq, BeatsRoundingToNearest) {
  const std::vector<float> w = testing::GaussianWeights(64, 256, 102);
  const HessianMatrix h = testing::CorrelatedHessian(256, 103);
  const auto optq =
      testing::Quantize(w, 64, 256, h, testing::Recipe(QuantMethod::kOptq), {2, 3, 4});
  const auto rtn = testing::Quantize(w, 64, 256, h, testing::Recipe(QuantMethod::kRtn), {2, 3, 4});
  ASSERT_TRUE(optq.ok() && rtn.ok());
  for (int i = 0; i < 3; ++i) {
    EXPECT_LT((*optq)[i].output_error, 0.7 * (*rtn)[i].output_error);
    EXPECT_EQ((*optq)[i].stored_bytes, (*rtn)[i].stored_bytes);
  }
}

}  // namespace
}  // namespace shiftadd::quantize
