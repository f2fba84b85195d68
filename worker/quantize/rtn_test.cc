#include "worker/quantize/rtn.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace shiftadd::quantize {
namespace {

std::vector<double> RoundTrip(const std::vector<float>& w, int64_t n, int64_t k, int q) {
  LayerPacking packing;
  packing.name = "test";
  packing.n = n;
  packing.k = k;
  packing.group = 128;
  packing.q = q;
  packing.Allocate(/*with_zeta=*/true);
  EXPECT_TRUE(RtnRows(w.data(), 0, n, &packing).ok());
  packing.Pack();
  std::vector<double> out(w.size());
  kernels::DequantizeRows(packing.View(), 0, n, out.data());
  return out;
}

// The grid in float64, without fp16: integer zero point, range with zero in it.
double NaiveError(const std::vector<float>& w, int64_t k, int q) {
  const int top = (1 << q) - 1;
  double error = 0;
  for (size_t begin = 0; begin < w.size();) {
    const size_t size = std::min<size_t>(128, static_cast<size_t>(k) - begin % k);
    double low = 0, high = 0;
    for (size_t i = begin; i < begin + size; ++i) {
      low = std::min<double>(low, w[i]);
      high = std::max<double>(high, w[i]);
    }
    const double step = (high - low) / top, zero = std::round(-low / step);
    for (size_t i = begin; i < begin + size; ++i) {
      const double code = std::clamp(std::round(w[i] / step) + zero, 0.0, double{1} * top);
      const double d = w[i] - (code - zero) * step;
      error += d * d;
    }
    begin += size;
  }
  return error;
}

TEST(RtnRows, HasTheErrorOfTheGridWithAnIntegerZeroPoint) {
  constexpr int64_t kRows = 64, kCols = 320;  // a tail of 64
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> w(kRows * kCols);
  for (float& x : w) x = normal(random);
  for (const int q : {1, 2, 3, 4, 6, 8}) {
    const std::vector<double> found = RoundTrip(w, kRows, kCols, q);
    double error = 0;
    for (size_t i = 0; i < w.size(); ++i) error += (w[i] - found[i]) * (w[i] - found[i]);
    EXPECT_NEAR(error, NaiveError(w, kCols, q), 0.01 * error) << q;
  }
}

TEST(RtnRows, ZeroIsALevel) {
  std::vector<float> w(128, 0.0f);
  w[0] = -0.3f;
  w[1] = 1.7f;
  for (const int q : {2, 3, 4}) {
    const std::vector<double> found = RoundTrip(w, 1, 128, q);
    for (size_t i = 2; i < w.size(); ++i) EXPECT_NEAR(found[i], 0.0, 1e-3) << q;
  }
}

TEST(RtnRows, GroupsOfOneSignOrOfNothing) {
  for (const float value : {0.0f, 0.25f, -0.25f}) {
    for (const double x : RoundTrip(std::vector<float>(128, value), 1, 128, 3)) {
      EXPECT_NEAR(x, value, 2e-4);
    }
  }
}

}  // namespace
}  // namespace shiftadd::quantize
