// acc against a plain float64 reading of the method, and its incoherence processing.
#include "worker/quantize/acc.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "worker/quantize/incoherence.h"
#include "worker/quantize/testing/layers.h"
#include "worker/quantize/testing/plain_reading.h"

namespace shiftadd::quantize {
namespace {

constexpr int64_t kN = 40, kK = 144, kRows = 32;  // a full row group and one of 8

// Column by column, descending diagonal of H, group by group of rows.
std::vector<float> NaiveAcc(const std::vector<float>& weights, const HessianMatrix& h, int q,
                            const QuantRecipe& recipe) {
  std::vector<int64_t> order(kK);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return h.h[a * (kK + 1)] > h.h[b * (kK + 1)]; });
  double mean = 0.0;
  for (int64_t i = 0; i < kK; ++i) mean += h.h[i * (kK + 1)] / kK;
  std::vector<std::vector<double>> m(kK, std::vector<double>(kK)), w(kN, std::vector<double>(kK));
  for (int64_t i = 0; i < kK; ++i) {
    for (int64_t j = 0; j < kK; ++j) m[i][j] = h.h[order[i] * kK + order[j]];
    m[i][i] += recipe.damping * mean;
    for (int64_t r = 0; r < kN; ++r) w[r][i] = weights[r * kK + order[i]];
  }
  const auto u = testing::UpperOfInverse(m);
  std::vector<float> out(kN * kK);
  for (int64_t i = 0; i < kK; ++i) {
    for (int64_t begin = 0; begin < kN; begin += kRows) {
      const int64_t end = std::min(begin + kRows, kN);
      std::vector<double> column;
      for (int64_t r = begin; r < end; ++r) column.push_back(w[r][i]);
      const std::vector<double> alpha = testing::Bcq(column, q, recipe.rounds, recipe.apot_terms);
      for (int64_t r = begin; r < end; ++r) {
        const double level = testing::LevelOf(alpha, testing::NearestCode(alpha, w[r][i]));
        const double e = (w[r][i] - level) / u[i][i];
        for (int64_t j = i; j < kK; ++j) w[r][j] -= e * u[i][j];
        out[r * kK + order[i]] = static_cast<float>(level);
      }
    }
  }
  return out;
}

TEST(Acc, MatchesAPlainReading) {
  const std::vector<float> w = testing::GaussianWeights(kN, kK, 90);
  const HessianMatrix h = testing::CorrelatedHessian(kK, 91);
  QuantRecipe recipe = testing::Recipe(QuantMethod::kAcc);
  recipe.group = kRows;
  for (const int terms : {0, 3}) {
    recipe.apot_terms = terms;
    for (const int q : {2, 3, 4}) {
      const std::vector<float> expected = NaiveAcc(w, h, q, recipe);
      const auto c = testing::Quantize(w, kN, kK, h, recipe, {q});
      ASSERT_TRUE(c.ok()) << c.status();
      const std::vector<float> what = testing::LayerBlob((*c)[0].blob, 0).Weights();
      int64_t first = 0;
      for (int64_t i = 1; i < kK; ++i) {
        if (h.h[i * (kK + 1)] > h.h[first * (kK + 1)]) first = i;
      }
      for (int64_t r = 0; r < kN; ++r) {
        EXPECT_NEAR(what[r * kK + first], expected[r * kK + first], 1e-4) << "row " << r;
      }
      // Beyond the first columns one tie changes the rest: compare losses.
      const std::vector<float> zero(w.size(), 0.0f);
      const double loss =
          testing::QuadraticError(w, expected, kN, h) / testing::QuadraticError(w, zero, kN, h);
      EXPECT_NEAR((*c)[0].output_error / loss, 1.0, 0.08) << "q " << q << " terms " << terms;
    }
  }
}

TEST(Acc, BeatsLatAndRotationHelpsOutliers) {
  std::vector<float> w = testing::GaussianWeights(64, kK, 92);
  for (size_t i = 0; i < w.size(); i += 97) w[i] *= 12.0f;
  const HessianMatrix h = testing::CorrelatedHessian(kK, 93);
  QuantRecipe acc = testing::Recipe(QuantMethod::kAcc);
  const auto plain = testing::Quantize(w, 64, kK, h, acc, {2, 3});
  acc.rotation = QuantRotation::kButterfly;
  const auto rotated = testing::Quantize(w, 64, kK, h, acc, {2, 3});
  const auto lat = testing::Quantize(w, 64, kK, h, testing::Recipe(QuantMethod::kLat), {2, 3});
  ASSERT_TRUE(plain.ok() && rotated.ok() && lat.ok());
  for (int i = 0; i < 2; ++i) {
    EXPECT_LT((*plain)[i].output_error, (*lat)[i].output_error);
    EXPECT_LT((*rotated)[i].output_error, (*plain)[i].output_error);
  }
}

TEST(Acc, StoredBitsAreThePapers) {
  const int64_t n = 256, k = 64;
  const auto c =
      testing::Quantize(testing::GaussianWeights(n, k, 94), n, k, testing::CorrelatedHessian(k, 95),
                        testing::Recipe(QuantMethod::kAcc), {2, 3, 4});
  ASSERT_TRUE(c.ok());
  EXPECT_DOUBLE_EQ((*c)[0].stored_bits, 2.25);
  EXPECT_DOUBLE_EQ((*c)[1].stored_bits, 3.375);
  EXPECT_DOUBLE_EQ((*c)[2].stored_bits, 4.5);
}

TEST(Butterfly, IsOrthogonalAndMixes) {
  for (const int64_t n : {1, 2, 7, 12, 576, 97}) {
    const Butterfly b(n, 3, 4);
    for (const int64_t at : {int64_t{0}, n - 1}) {
      std::vector<double> x(n, 0.0);
      x[at] = 1.0;
      b.Apply(x.data(), 1);
      double norm = 0.0, most = 0.0;
      for (const double v : x) {
        norm += v * v;
        most = std::max(most, std::fabs(v));
      }
      EXPECT_NEAR(norm, 1.0, 1e-12) << n;
      if (n >= 97) {
        EXPECT_LT(most, 0.6) << n;
      }
      b.ApplyTransposed(x.data(), 1);
      for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(x[i], i == at ? 1.0 : 0.0, 1e-12) << n;
    }
    std::vector<double> strided(3 * n, 0.0), plain(n);
    for (int64_t i = 0; i < n; ++i) strided[3 * i] = plain[i] = std::cos(static_cast<double>(i));
    b.Apply(strided.data(), 3);
    b.Apply(plain.data(), 1);
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(strided[3 * i], plain[i]);
  }
}

TEST(Incoherence, KeepsTheLossAndUndoes) {
  const int64_t n = 12, k = 30;
  const HessianMatrix h = testing::CorrelatedHessian(k, 96);
  const std::vector<float> weights = testing::GaussianWeights(n, k, 97);
  const std::vector<double> original(weights.begin(), weights.end());
  std::vector<double> m = h.h, w = original;
  const Incoherence incoherence(n, k, 5, &m, &w);
  double trace = 0.0, loss = 0.0, base = 0.0, norm = 0.0;
  for (int64_t i = 0; i < k; ++i) trace += m[i * (k + 1)];
  EXPECT_NEAR(trace, 1.01 * static_cast<double>(k), 1e-9);
  // tr(W H W^T) is kept up to the one factor and what 0.01 I adds: find it from both.
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t i = 0; i < k; ++i) {
      norm += w[r * k + i] * w[r * k + i];
      for (int64_t j = 0; j < k; ++j) {
        loss += w[r * k + i] * m[i * k + j] * w[r * k + j];
        base += original[r * k + i] * h.h[i * k + j] * original[r * k + j];
      }
    }
  }
  double sum = 0.0;  // tr of diag(s)^-1 H diag(s)^-1
  std::vector<double> norms(k, 0.0);
  for (int64_t i = 0; i < n * k; ++i) norms[i % k] += original[i] * original[i];
  for (int64_t i = 0; i < k; ++i) sum += std::sqrt(h.h[i * (k + 1)] * norms[i]);
  EXPECT_NEAR((loss - 0.01 * norm) / (base * static_cast<double>(k) / sum), 1.0, 1e-9);
  incoherence.Undo(&w);
  for (int64_t i = 0; i < n * k; ++i) EXPECT_NEAR(w[i], original[i], 1e-12);
}

}  // namespace
}  // namespace shiftadd::quantize
