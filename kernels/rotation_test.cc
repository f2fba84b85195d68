#include "kernels/rotation.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu_linear.h"

namespace shiftadd::kernels {
namespace {

std::vector<uint32_t> RandomSigns(int64_t k, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> signs((k + 31) / 32);
  for (uint32_t& s : signs) s = static_cast<uint32_t>(random());
  return signs;
}

std::vector<double> RandomVector(int64_t k, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(k);
  for (double& v : x) v = normal(random);
  return x;
}

// D as a dense matrix, from the definition: Had[i][j] = (-1)^popcount(i & j).
std::vector<double> DenseRotation(int64_t k, const std::vector<uint32_t>& signs) {
  std::vector<double> d(k * k, 0.0);
  int64_t begin = 0;
  while (begin < k) {
    int64_t n = 128;
    while (n > k - begin) n /= 2;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const int64_t col = begin + j;
        const double sign = (signs[col / 32] >> (col % 32)) & 1 ? 1.0 : -1.0;
        const double had = std::popcount(static_cast<uint64_t>(i & j)) % 2 == 0 ? 1.0 : -1.0;
        d[(begin + i) * k + col] = had * sign / std::sqrt(static_cast<double>(n));
      }
    }
    begin += n;
  }
  return d;
}

class RotationTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(RotationTest, IsTheDenseMatrix) {
  const int64_t k = GetParam();
  const std::vector<uint32_t> signs = RandomSigns(k, 1);
  const std::vector<double> d = DenseRotation(k, signs);
  const std::vector<double> x = RandomVector(k, 2);
  std::vector<double> rotated = x;
  Rotate(rotated.data(), k, signs.data());
  std::vector<float> single(x.begin(), x.end());
  Rotate(single.data(), k, signs.data());
  for (int64_t i = 0; i < k; ++i) {
    double expected = 0;
    for (int64_t j = 0; j < k; ++j) expected += d[i * k + j] * x[j];
    ASSERT_NEAR(rotated[i], expected, 1e-12) << i;
    ASSERT_NEAR(single[i], expected, 1e-5) << i;
  }
}

TEST_P(RotationTest, UnrotateIsTheInverseAndTheTranspose) {
  const int64_t k = GetParam();
  const std::vector<uint32_t> signs = RandomSigns(k, 3);
  const std::vector<double> d = DenseRotation(k, signs);
  const std::vector<double> x = RandomVector(k, 4);
  std::vector<double> back = x;
  Unrotate(back.data(), k, signs.data());
  double before = 0, after = 0;
  for (int64_t j = 0; j < k; ++j) {
    double expected = 0;
    for (int64_t i = 0; i < k; ++i) expected += d[i * k + j] * x[i];
    ASSERT_NEAR(back[j], expected, 1e-12) << j;
    before += x[j] * x[j];
    after += back[j] * back[j];
  }
  EXPECT_NEAR(after, before, 1e-12 * before);
  Rotate(back.data(), k, signs.data());
  for (int64_t j = 0; j < k; ++j) ASSERT_NEAR(back[j], x[j], 1e-12) << j;
}

TEST_P(RotationTest, BlocksCoverTheInput) {
  const int64_t k = GetParam();
  int64_t at = 0, last = 128;
  ForEachRotationBlock(k, [&](int64_t begin, int64_t n) {
    EXPECT_EQ(begin, at);
    EXPECT_LE(n, last);
    EXPECT_TRUE(std::has_single_bit(static_cast<uint64_t>(n)));
    at += n;
    last = n;
  });
  EXPECT_EQ(at, k);
}

INSTANTIATE_TEST_SUITE_P(Widths, RotationTest,
                         ::testing::Values(1, 2, 31, 32, 96, 127, 128, 129, 192, 335, 576));

// The kernels rotate on their own: digits must be those of the public function's floats.
TEST(Rotation, KernelsRotateToTheSameBits) {
  for (const int64_t k : {1, 24, 127, 576, 1000}) {
    const std::vector<uint32_t> signs = RandomSigns(k, 5);
    const std::vector<double> x = RandomVector(k, 6);
    const std::vector<float> single(x.begin(), x.end());
    std::vector<float> rotated = single;
    Rotate(rotated.data(), k, signs.data());
    for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
      Activations fused, apart;
      PrepareActivations(single.data(), k, 1, k, 128, signs.data(), Precision::kA16, isa, &fused);
      PrepareActivations(rotated.data(), k, 1, k, 128, nullptr, Precision::kA16, isa, &apart);
      EXPECT_EQ(fused.digits, apart.digits) << IsaName(isa) << " " << k;
      EXPECT_EQ(fused.digit_sum, apart.digit_sum) << IsaName(isa) << " " << k;
      EXPECT_EQ(std::memcmp(fused.scale.data(), apart.scale.data(), 4 * fused.groups), 0);
      EXPECT_EQ(std::memcmp(fused.sum.data(), apart.sum.data(), 4 * fused.groups), 0);
    }
  }
}

}  // namespace
}  // namespace shiftadd::kernels
