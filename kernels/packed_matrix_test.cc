#include "kernels/packed_matrix.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/packing.h"
#include "kernels/test_matrix.h"

namespace shiftadd::kernels {
namespace {

TEST(Half, EveryPatternGoesThereAndBack) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = HalfToFloat(static_cast<uint16_t>(h));
    const int exponent = (h >> 10) & 31;
    const double mantissa = h & 1023;
    double expected =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (h & 0x8000) expected = -expected;
    if (exponent < 31) {
      ASSERT_EQ(f, expected) << h;
      ASSERT_EQ(std::signbit(f), (h & 0x8000) != 0) << h;
      ASSERT_EQ(FloatToHalf(f), h);
    } else if (mantissa == 0) {
      ASSERT_TRUE(std::isinf(f));
      ASSERT_EQ(FloatToHalf(f), h);
    } else {
      ASSERT_TRUE(std::isnan(f));
      ASSERT_TRUE(std::isnan(HalfToFloat(FloatToHalf(f)))) << h;
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  for (uint32_t h = 0; h < 0x7bff; ++h) {  // between each two neighbours
    const double low = HalfToFloat(static_cast<uint16_t>(h));
    const double high = HalfToFloat(static_cast<uint16_t>(h + 1));
    const float middle = static_cast<float>((low + high) / 2);  // exact: one more bit
    const uint16_t even = static_cast<uint16_t>(h % 2 == 0 ? h : h + 1);
    ASSERT_EQ(FloatToHalf(middle), even) << h;
    ASSERT_EQ(FloatToHalf(-middle), even | 0x8000) << h;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), h);
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 1e9f)), h + 1);
  }
  EXPECT_EQ(FloatToHalf(65519.99f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-std::numeric_limits<float>::max()), 0xfc00);
  EXPECT_EQ(FloatToHalf(1e-40f), 0);
}

TEST(ExponentTable, DefaultsAreDescendingFromZero) {
  for (int q = 1; q <= kMaxPlanes; ++q) {
    const ExponentTable t = DefaultExponentTable(q);
    EXPECT_EQ(t.q, q);
    EXPECT_EQ(t.count, q == 2 ? 3 : q == 3 ? 6 : q == 4 ? 8 : 1);
    for (int s = 0; s < t.count; ++s) {
      EXPECT_EQ(t.exponents[s][0], 0);
      for (int i = 1; i < q; ++i) EXPECT_LE(t.exponents[s][i], t.exponents[s][i - 1]);
    }
  }
  EXPECT_EQ(DefaultExponentTable(3).exponents[5][2], -3);
  EXPECT_EQ(DefaultExponentTable(8).exponents[0][7], -7);
  EXPECT_EQ(DefaultExponentTable(0).count, 0);
  EXPECT_EQ(DefaultExponentTable(9).count, 0);
}

TEST(Packing, PlanesGoThereAndBackWithClearPadBits) {
  std::mt19937 random(1);
  for (const int64_t k : {1, 31, 32, 33, 100}) {
    for (int q = 1; q <= 8; ++q) {
      const int64_t n = 3, words = (k + 31) / 32;
      std::vector<uint8_t> codes(n * k), back(n * k);
      for (uint8_t& c : codes) c = static_cast<uint8_t>(random());  // bits above q too
      std::vector<uint32_t> planes(q * n * words, 0xffffffffu);
      PackPlanes(codes.data(), n, k, q, planes.data());
      UnpackPlanes(planes.data(), n, k, q, back.data());
      for (int64_t i = 0; i < n * k; ++i) ASSERT_EQ(back[i], codes[i] & ((1 << q) - 1));
      const int pad = static_cast<int>(words * 32 - k);
      for (int64_t r = 0; pad > 0 && r < q * n; ++r) {
        ASSERT_EQ(planes[r * words + words - 1] >> (32 - pad), 0u) << "k " << k;
      }
    }
  }
}

TEST(Packing, BitOrder) {
  std::vector<uint8_t> codes(40, 0);
  codes[1] = 1, codes[33] = 2;
  uint32_t planes[4];
  PackPlanes(codes.data(), 1, 40, 2, planes);
  EXPECT_EQ(planes[0], 2u);  // plane 0, input 1
  EXPECT_EQ(planes[1], 0u);
  EXPECT_EQ(planes[2], 0u);
  EXPECT_EQ(planes[3], 2u);  // plane 1, input 33
}

TEST(Packing, ExponentsLowNibbleFirst) {
  const uint8_t index[6] = {1, 2, 3, 4, 5, 6};
  uint8_t packed[4], back[6];
  PackExponents(index, 2, 3, packed);
  EXPECT_EQ(packed[0], 0x21);
  EXPECT_EQ(packed[1], 0x03);  // odd count: high nibble 0
  EXPECT_EQ(packed[2], 0x54);
  EXPECT_EQ(packed[3], 0x06);
  UnpackExponents(packed, 2, 3, back);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(back[i], index[i]);
}

TEST(Dequantize, FollowsTheDefinition) {
  TestMatrix m({.q = 2, .zeta = true, .n = 1, .k = 3, .group = 32}, 1);
  m.scale[0] = FloatToHalf(0.5f);
  m.zeta[0] = FloatToHalf(-0.75f);
  m.exponents[0] = 2;  // {0, -2}
  const uint8_t codes[3] = {0, 1, 3};
  PackPlanes(codes, 1, 3, 2, m.planes.data());
  double w[3];
  DequantizeRows(m.view, 0, 1, w);
  EXPECT_EQ(w[0], -0.75);
  EXPECT_EQ(w[1], -0.75 + 1.0);
  EXPECT_EQ(w[2], -0.75 + 1.25);
  m.view.zeta = nullptr;
  DequantizeRows(m.view, 0, 1, w);
  EXPECT_EQ(w[0], -0.625);
  EXPECT_EQ(w[1], 0.5 - 0.125);
  EXPECT_EQ(w[2], 0.625);
}

TEST(Dequantize, Block8SharesScalesByRowsAndInputs) {
  TestMatrix m({.encoding = Encoding::kBcqBlock8, .q = 1, .n = 5, .k = 17, .block_rows = 2}, 1);
  for (size_t i = 0; i < m.alpha.size(); ++i) m.alpha[i] = FloatToHalf(static_cast<float>(i + 1));
  std::vector<double> w(5 * 17);
  DequantizeRows(m.view, 0, 5, w.data());
  for (int64_t n = 0; n < 5; ++n) {
    for (int64_t k = 0; k < 17; ++k) {
      const int64_t scale = k / 8 * 3 + n / 2 + 1;
      const auto alpha = static_cast<double>(scale);
      ASSERT_EQ(w[n * 17 + k], m.codes[n * 17 + k] ? alpha : -alpha) << n << " " << k;
    }
  }
}

// One goes by tables, the other by the definition, weight by weight.
TEST(Dequantize, UnrotatedRowsAreTheDefinitions) {
  for (const Encoding encoding :
       {Encoding::kBcqShift, Encoding::kBcqFree, Encoding::kBcqBlock8, Encoding::kInt8Group}) {
    for (const int q : {1, 2, 3, 4, 7, 8}) {
      for (const int64_t group : {32, 128, 461}) {
        const bool zeta = encoding <= Encoding::kBcqFree && group == 128;
        const TestMatrix m(
            {.encoding = encoding, .q = q, .zeta = zeta, .n = 7, .k = 461, .group = group}, 3);
        std::vector<double> expected(7 * 461);
        DequantizeRows(m.view, 0, 7, expected.data());
        std::vector<float> found(4 * 461);
        DequantizeUnrotated(m.view, 2, 6, found.data());
        for (size_t i = 0; i < found.size(); ++i) {
          ASSERT_EQ(found[i], static_cast<float>(expected[2 * 461 + i]))
              << static_cast<int>(encoding) << " q " << q << " group " << group << " at " << i;
        }
      }
    }
  }
}

TEST(StoredBytes, AsTheDesignSays) {
  const auto bits = [](const TestMatrixOptions& o) {
    const TestMatrix m(o, 1);
    return 8.0 * static_cast<double>(StoredBytes(m.view)) / static_cast<double>(o.n * o.k);
  };
  TestMatrixOptions o;
  o.n = 32, o.k = 1024;
  EXPECT_NEAR(bits(o), 3 + 20.0 / 128, 1e-9);
  o.zeta = true;
  EXPECT_NEAR(bits(o), 3 + 36.0 / 128, 1e-9);
  o.encoding = Encoding::kBcqFree;
  EXPECT_NEAR(bits(o), 3 + 64.0 / 128, 1e-9);
  o.zeta = false;
  EXPECT_NEAR(bits(o), 3 + 48.0 / 128, 1e-9);
  o.encoding = Encoding::kBcqBlock8;
  EXPECT_NEAR(bits(o), 3 + 48.0 / 128, 1e-9);
  o.encoding = Encoding::kInt8Group;
  EXPECT_NEAR(bits(o), 8 + 16.0 / 128, 1e-9);
}

TEST(Validate, SaysWhatIsWrong) {
  const auto broken = [](const TestMatrixOptions& o, auto change) {
    TestMatrix m(o, 1);
    EXPECT_EQ(Validate(m.view), "");
    change(&m);
    return Validate(m.view);
  };
  const TestMatrixOptions shift,
      free = {.encoding = Encoding::kBcqFree}, int8 = {.encoding = Encoding::kInt8Group},
      block = {.encoding = Encoding::kBcqBlock8}, rotated = {.rotated = true};
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->view.n = 0; }), "n is 0, expected 1..2^31");
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->view.k = -5; }), "k is -5, expected 1..2^31");
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->view.group = 48; }),
            "group is 48, expected a positive multiple of 32, or at least k");
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->view.q = 9; }), "q is 9, expected 1..8");
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->view.q = 2; }), "table.q is 3, expected q = 2");
  EXPECT_EQ(broken(int8, [](TestMatrix* m) { m->view.q = 1; }),
            "q is 1, expected 0 for int8/group");
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->view.planes = nullptr; }),
            "planes is null, bcq/shift needs it");
  EXPECT_EQ(broken(int8, [](TestMatrix* m) { m->view.scale = nullptr; }),
            "scale is null, int8/group needs it");
  EXPECT_EQ(broken(int8, [](TestMatrix* m) { m->view.codes = nullptr; }),
            "codes is null, int8/group needs it");
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->view.exponents = nullptr; }),
            "exponents is null, bcq/shift needs it");
  EXPECT_EQ(broken(free, [](TestMatrix* m) { m->view.alpha = nullptr; }),
            "alpha is null, bcq/free needs it");
  EXPECT_EQ(broken(block, [](TestMatrix* m) { m->view.zeta = m->alpha.data(); }),
            "zeta is set, bcq/block8 has none");
  EXPECT_EQ(broken(block, [](TestMatrix* m) { m->view.block_rows = 0; }),
            "block_rows is 0, expected at least 1 for bcq/block8");
  EXPECT_EQ(broken(rotated, [](TestMatrix* m) { m->view.signs = nullptr; }),
            "signs is null, rotation wht128 needs it");
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->view.table.count = 17; }),
            "table.count is 17, expected 1..16");
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->view.table.exponents[1][0] = 33; }),
            "table.exponents[1][0] is 33, expected -32..32");
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->view.table.exponents[1][2] = 3; }),
            "table.exponents[1] is not in descending order");
  EXPECT_EQ(broken(shift, [](TestMatrix* m) { m->exponents[4] = 6; }),
            "exponents[4, group 0] is 6, expected below table.count = 6");
}

}  // namespace
}  // namespace shiftadd::kernels
