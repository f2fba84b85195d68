#include "worker/quantize/bcq_fit.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "worker/quantize/testing/plain_reading.h"

namespace shiftadd::quantize {
namespace {

// Mean over the groups of ||w - what||^2 / ||w||^2 for Gaussian weights. Deviations run over the
// octave from 1, since powers of two favour some sizes.
double MeanRelativeError(int64_t n, int q, int rounds, int apot_terms) {
  const int groups = n < 1000 ? 2048 : 128;  // a short group's error varies more
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  BcqFitter fitter(q, rounds, apot_terms);
  std::vector<float> w(n), what(n);
  double total = 0.0;
  for (int g = 0; g < groups; ++g) {
    double norm = 0.0, error = 0.0;
    for (float& x : w) {
      x = normal(engine) * std::exp2(static_cast<float>(g) / static_cast<float>(groups));
      norm += static_cast<double>(x) * x;
    }
    fitter.Fit(w.data(), n, what.data());
    for (int64_t i = 0; i < n; ++i) {
      error += (static_cast<double>(w[i]) - what[i]) * (w[i] - what[i]);
    }
    total += error / norm / groups;
  }
  return total;
}

TEST(BcqFit, LongGroupsReachThePublishedError) {
  const double free[] = {.1174, .0368, .0112}, apot3[] = {.1167, .0377, .0122},
               tolerance[] = {.03, .06, .12};
  for (int q = 2; q <= 4; ++q) {
    EXPECT_NEAR(MeanRelativeError(4096, q, 50, 0) / free[q - 2], 1.0, .02) << q;
    EXPECT_NEAR(MeanRelativeError(4096, q, 50, 3) / apot3[q - 2], 1.0, tolerance[q - 2]) << q;
  }
}

TEST(BcqFit, GroupsOf128) {
  const double free[] = {.1149, .0348, .0106}, apot3[] = {.1153, .0351, .0111};
  for (int q = 2; q <= 4; ++q) {
    EXPECT_NEAR(MeanRelativeError(128, q, 50, 0) / free[q - 2], 1.0, .03) << q;
    EXPECT_NEAR(MeanRelativeError(128, q, 50, 3) / apot3[q - 2], 1.0, .03) << q;
  }
}

TEST(BcqFit, MatchesAPlainReading) {
  std::mt19937 engine(6);
  std::normal_distribution<float> normal;
  for (const int q : {1, 2, 3, 4, 5}) {
    for (const int terms : {0, 1, 3}) {
      for (const int64_t n : {1, 2, 7, 40, 100}) {
        // With few weights the system is singular, and powers of two make the ridge's rounding
        // large.
        if (terms > 0 && n < (1 << q)) continue;
        std::vector<float> w(n), what(n);
        for (float& x : w) x = normal(engine);
        BcqFitter fitter(q, 20, terms);
        fitter.Fit(w.data(), n, what.data());
        const std::vector<double> alpha =
            testing::Bcq(std::vector<double>(w.begin(), w.end()), q, 20, terms);
        for (int i = 0; i < q; ++i) {
          ASSERT_NEAR(fitter.alpha()[i], alpha[i], 1e-5 * (1.0 + alpha[0])) << q << ' ' << n;
        }
        for (int64_t i = 0; i < n; ++i) {
          const double nearest = testing::LevelOf(alpha, testing::NearestCode(alpha, w[i]));
          ASSERT_NEAR(std::fabs(what[i] - w[i]), std::fabs(nearest - w[i]), 1e-5);
        }
      }
    }
  }
}

TEST(BcqFit, ExactWeightsComeOutExactly) {
  // Sums of a few powers of two, each sign pattern once or more.
  const std::vector<double> alpha = {1.0, 0.25, 0.0625};
  std::vector<float> w, what(24);
  for (int i = 0; i < 24; ++i) w.push_back(static_cast<float>(testing::LevelOf(alpha, i % 8)));
  for (const int terms : {0, 3}) {
    BcqFitter fitter(3, 50, terms);
    fitter.Fit(w.data(), 24, what.data());
    for (int i = 0; i < 24; ++i) EXPECT_NEAR(what[i], w[i], 2e-5) << i;  // the ridge
  }
  const std::vector<float> zero(9, 0.0f);
  BcqFitter(4, 50, 3).Fit(zero.data(), 9, what.data());
  for (int i = 0; i < 9; ++i) EXPECT_EQ(what[i], 0.0f);
}

}  // namespace
}  // namespace shiftadd::quantize
