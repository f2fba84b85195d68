// lat against a plain float64 reading of the method: column by column, no tiles, no blocks of
// updates.
#include "worker/quantize/lat.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "worker/quantize/testing/layers.h"
#include "worker/quantize/testing/plain_reading.h"

namespace shiftadd::quantize {
namespace {

constexpr int64_t kN = 36, kK = 144,
                  kRows = 16;  // two full row groups and one of 4; 128 columns and 16

using testing::Bcq;
using testing::LevelOf;
using testing::NearestCode;
using testing::UpperOfInverse;

struct Result {
  int64_t first_block = 0;                       // the block of 8 inputs that was quantized first
  std::vector<float> what;                       // [kN, kK]
  std::vector<std::vector<double>> first_alpha;  // a row group
};

Result NaiveLat(const std::vector<float>& weights, const HessianMatrix& h, int q,
                const QuantRecipe& recipe) {
  double mean = 0.0;
  for (int64_t i = 0; i < kK; ++i) mean += h.h[i * (kK + 1)] / kK;
  const std::vector<double>& raw = h.h;
  std::vector<int64_t> blocks(kK / 8), order;
  const auto sum = [&](int64_t b) {
    double s = 0.0;
    for (int64_t i = 8 * b; i < 8 * b + 8; ++i) s += raw[i * (kK + 1)];
    return s;
  };
  for (int64_t b = 0; b < kK / 8; ++b) blocks[b] = b;
  std::stable_sort(blocks.begin(), blocks.end(),
                   [&](int64_t a, int64_t b) { return sum(a) > sum(b); });
  for (const int64_t b : blocks) {
    for (int64_t i = 0; i < 8; ++i) order.push_back(8 * b + i);
  }
  std::vector<std::vector<double>> m(kK, std::vector<double>(kK)), w(kN, std::vector<double>(kK));
  for (int64_t i = 0; i < kK; ++i) {
    for (int64_t j = 0; j < kK; ++j) m[i][j] = raw[order[i] * kK + order[j]] / mean;
    m[i][i] += recipe.damping;
    for (int64_t r = 0; r < kN; ++r) w[r][i] = weights[r * kK + order[i]];
  }
  const auto u = UpperOfInverse(m);
  Result out;
  out.first_block = blocks[0];
  out.what.resize(kN * kK);
  std::vector<std::vector<double>> alpha;
  for (int64_t i = 0; i < kK; ++i) {
    if (i % 8 == 0) {
      alpha.clear();
      for (int64_t begin = 0; begin < kN; begin += kRows) {
        std::vector<double> flat;
        for (int64_t r = begin; r < std::min(begin + kRows, kN); ++r) {
          flat.insert(flat.end(), w[r].begin() + i, w[r].begin() + i + 8);
        }
        alpha.push_back(Bcq(flat, q, recipe.rounds, recipe.apot_terms));
      }
      if (i == 0) out.first_alpha = alpha;
    }
    for (int64_t r = 0; r < kN; ++r) {
      const std::vector<double>& a = alpha[r / kRows];
      const double level = LevelOf(a, NearestCode(a, w[r][i]));
      const double e = (w[r][i] - level) / u[i][i];
      for (int64_t j = i; j < kK; ++j) w[r][j] -= e * u[i][j];
      out.what[r * kK + order[i]] = static_cast<float>(level);
    }
  }
  return out;
}

TEST(Lat, MatchesAPlainReading) {
  const std::vector<float> w = testing::GaussianWeights(kN, kK, 40);
  const HessianMatrix h = testing::CorrelatedHessian(kK, 41);
  const QuantRecipe recipe = testing::Recipe(QuantMethod::kLat);
  for (const int q : {2, 3, 4}) {
    const Result expected = NaiveLat(w, h, q, recipe);
    const auto c = testing::Quantize(w, kN, kK, h, recipe, {q});
    ASSERT_TRUE(c.ok()) << c.status();
    const testing::LayerBlob blob((*c)[0].blob, 0);
    EXPECT_EQ(blob.matrix().block_rows, kRows);
    const int64_t groups = 3;
    for (int64_t g = 0; g < groups; ++g) {
      for (int i = 0; i < q; ++i) {
        const float alpha =
            kernels::HalfToFloat(blob.matrix().alpha[(expected.first_block * groups + g) * q + i]);
        EXPECT_NEAR(alpha / expected.first_alpha[g][i], 1.0, 2e-3)
            << "q " << q << " group " << g << " plane " << i;
      }
    }
    const std::vector<float> what = blob.Weights();
    int64_t same = 0;
    for (int64_t r = 0; r < kN; ++r) {
      for (int64_t i = 8 * expected.first_block; i < 8 * expected.first_block + 8; ++i) {
        same += std::fabs(what[r * kK + i] - expected.what[r * kK + i]) < 1e-3f;
      }
    }
    EXPECT_GE(same, kN * 8 * 97 / 100) << "q " << q;
    // Beyond the first block one flipped tie changes the rest: compare losses.
    const double loss = testing::QuadraticError(w, expected.what, kN, h) /
                        testing::QuadraticError(w, std::vector<float>(w.size(), 0.0f), kN, h);
    EXPECT_NEAR((*c)[0].output_error / loss, 1.0, 0.08) << "q " << q;
  }
}

TEST(Lat, BlockRows) {
  EXPECT_EQ(LatBlockRows(128, 1000), 16);
  EXPECT_EQ(LatBlockRows(32, 1000), 4);
  EXPECT_EQ(LatBlockRows(-1, 1000), 125);
  EXPECT_EQ(LatBlockRows(-1, 5), 1);
}

}  // namespace
}  // namespace shiftadd::quantize
