#include "kernels/cpu_linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/rotation.h"
#include "kernels/test_matrix.h"

namespace shiftadd::kernels {
namespace {

struct Case {
  std::string name;
  TestMatrixOptions options;
};

std::vector<Case> Encodings() {
  std::vector<Case> cases;
  for (int q = 1; q <= 8; ++q) {
    for (const bool zeta : {false, true}) {
      const std::string tail = std::to_string(q) + (zeta ? "_zeta" : "");
      cases.push_back({"shift" + tail, {.q = q, .zeta = zeta}});
      cases.push_back({"free" + tail, {.encoding = Encoding::kBcqFree, .q = q, .zeta = zeta}});
    }
    cases.push_back({"block8_" + std::to_string(q), {.encoding = Encoding::kBcqBlock8, .q = q}});
  }
  cases.push_back({"int8", {.encoding = Encoding::kInt8Group}});
  return cases;
}

struct Shape {
  int64_t n, k, group, m;
};
// Tails in rows, inputs, groups and tokens; groups that do not divide 128; whole rows.
constexpr Shape kShapes[] = {{1, 1, 32, 1},      {16, 128, 128, 1}, {17, 576, 128, 3},
                             {33, 200, 64, 5},   {5, 333, 32, 9},   {48, 256, 256, 2},
                             {20, 300, 1000, 4}, {31, 417, 96, 1},  {16, 640, 160, 11},
                             {40, 129, 128, 70}, {3, 31, 64, 2},    {18, 240, 128, 1},
                             {7, 100, 64, 6}};

std::vector<Isa> Isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (isa <= DetectIsa()) isas.push_back(isa);
  }
  return isas;
}

// What the digits stand for, [m, k] float64.
std::vector<double> Quantized(const Activations& a) {
  std::vector<double> x(a.m * a.k);
  const int8_t* low = a.digits.data() + a.m * a.k_padded;
  for (int64_t i = 0; i < a.m; ++i) {
    int64_t chunk = 0;
    for (int64_t k = 0; k < a.k; ++k) {
      if (k > 0 && (k % 128 == 0 || k % a.group == 0)) ++chunk;
      int value = a.digits[i * a.k_padded + k];
      if (a.precision == Precision::kA16) value = 255 * value + low[i * a.k_padded + k];
      x[i * a.k + k] = static_cast<double>(a.scale[i * a.groups + chunk]) * value;
    }
    EXPECT_EQ(chunk + 1, a.groups);
  }
  return x;
}

std::vector<float> Product(const CpuLinear& w, const Activations& a) {
  std::vector<float> y(a.m * w.n());
  w.Multiply(a, 0, w.n(), y.data(), w.n());
  return y;
}

std::unique_ptr<CpuLinear> Make(const TestMatrix& m, Isa isa) {
  std::string error;
  auto linear = CpuLinear::Create(m.view, isa, &error);
  EXPECT_NE(linear, nullptr) << error;
  return linear;
}

class EncodingTest : public ::testing::TestWithParam<Case> {};

// The product of the quantized activations, in float64, within float rounding of the terms' size.
TEST_P(EncodingTest, AgreesWithFloat64) {
  uint32_t seed = 1;
  for (const Shape& s : kShapes) {
    TestMatrixOptions o = GetParam().options;
    o.n = s.n, o.k = s.k, o.group = s.group;
    o.block_rows = seed % 2 == 0 ? 16 : 6;
    const TestMatrix m(o, seed++);
    std::vector<double> w(s.n * s.k);
    DequantizeRows(m.view, 0, s.n, w.data());
    const std::vector<float> x = TestActivations(s.m * s.k, seed);
    for (const Precision precision : {Precision::kA8, Precision::kA16}) {
      Activations a;
      PrepareActivations(x.data(), s.k, s.m, s.k, s.group, nullptr, precision, DetectIsa(), &a);
      const std::vector<double> xq = Quantized(a);
      const std::vector<float> y = Product(*Make(m, Isa::kPortable), a);
      for (int64_t i = 0; i < s.m; ++i) {
        for (int64_t n = 0; n < s.n; ++n) {
          double sum = 0, size = 0;
          for (int64_t k = 0; k < s.k; ++k) {
            sum += w[n * s.k + k] * xq[i * s.k + k];
            size += std::abs(w[n * s.k + k] * xq[i * s.k + k]);
          }
          ASSERT_NEAR(y[i * s.n + n], sum, 1e-5 * size + 1e-30)
              << s.n << "x" << s.k << " group " << s.group << " token " << i << " row " << n;
        }
      }
    }
  }
}

TEST_P(EncodingTest, InstructionSetsAgreeBitForBit) {
  uint32_t seed = 100;
  for (const Shape& s : kShapes) {
    TestMatrixOptions o = GetParam().options;
    o.n = s.n, o.k = s.k, o.group = s.group, o.rotated = true;
    const TestMatrix m(o, seed++);
    const std::vector<float> x = TestActivations(s.m * s.k, seed);
    for (const Precision precision : {Precision::kA8, Precision::kA16}) {
      std::vector<float> expected;
      for (const Isa isa : Isas()) {
        Activations a;
        PrepareActivations(x.data(), s.k, s.m, s.k, s.group, m.view.signs, precision, isa, &a);
        const std::vector<float> y = Product(*Make(m, isa), a);
        if (expected.empty()) expected = y;
        ASSERT_EQ(std::memcmp(y.data(), expected.data(), y.size() * 4), 0)
            << IsaName(isa) << " " << s.n << "x" << s.k << " group " << s.group << " m " << s.m;
      }
    }
  }
}

TEST_P(EncodingTest, ARowDependsOnNothingElse) {
  TestMatrixOptions o = GetParam().options;
  o.n = 53, o.k = 320, o.group = 64;
  const TestMatrix m(o, 7);
  const int64_t tokens = 19;
  const std::vector<float> x = TestActivations(tokens * o.k, 8);
  for (const Isa isa : Isas()) {
    const auto linear = Make(m, isa);
    Activations all;
    PrepareActivations(x.data(), o.k, tokens, o.k, o.group, nullptr, Precision::kA8, isa, &all);
    const std::vector<float> y = Product(*linear, all);
    for (int64_t i = 0; i < tokens; i += 6) {
      Activations one;
      PrepareActivations(x.data() + i * o.k, o.k, 1, o.k, o.group, nullptr, Precision::kA8, isa,
                         &one);
      // Rows 5..36 alone, into a row that must stay as it is around them.
      std::vector<float> part(o.n, -1.0f);
      linear->Multiply(one, 5, 37, part.data(), o.n);
      for (int64_t n = 0; n < o.n; ++n) {
        ASSERT_EQ(part[n], n >= 5 && n < 37 ? y[i * o.n + n] : -1.0f)
            << IsaName(isa) << " token " << i << " row " << n;
      }
    }
  }
}

TEST_P(EncodingTest, GathersRowsAsDequantized) {
  TestMatrixOptions o = GetParam().options;
  o.n = 21, o.k = 205, o.group = 96, o.rotated = true;
  const TestMatrix m(o, 9);
  const auto linear = Make(m, DetectIsa());
  std::vector<float> expected(o.n * o.k), row(o.k);
  DequantizeUnrotated(m.view, 0, o.n, expected.data());
  for (int64_t n = 0; n < o.n; ++n) {
    linear->GatherRow(n, row.data());
    ASSERT_EQ(std::memcmp(row.data(), expected.data() + n * o.k, o.k * 4), 0) << n;
  }
}

TEST_P(EncodingTest, StaysNearTheStoredBytes) {
  TestMatrixOptions o = GetParam().options;
  o.n = 64, o.k = 1024;
  const TestMatrix m(o, 10);
  const uint64_t bytes = Make(m, DetectIsa())->bytes();
  // 0.5 byte a row and group for an unpacked set number, and the object itself.
  EXPECT_LE(bytes, StoredBytes(m.view) + o.n * 8 + 2048);
}

INSTANTIATE_TEST_SUITE_P(All, EncodingTest, ::testing::ValuesIn(Encodings()),
                         [](const auto& info) { return info.param.name; });

TEST(CpuLinear, RotationCancels) {
  TestMatrixOptions o;
  o.n = 40, o.k = 576, o.rotated = true, o.encoding = Encoding::kInt8Group;
  const TestMatrix m(o, 11);
  std::vector<float> w(o.n * o.k);
  DequantizeUnrotated(m.view, 0, o.n, w.data());
  const std::vector<float> x = TestActivations(o.k, 12);
  for (const auto& [precision, bound] :
       {std::pair{Precision::kA8, 0.03}, std::pair{Precision::kA16, 2e-4}}) {
    Activations a;
    PrepareActivations(x.data(), o.k, 1, o.k, o.group, m.view.signs, precision, DetectIsa(), &a);
    const std::vector<float> y = Product(*Make(m, DetectIsa()), a);
    double error = 0, norm = 0;
    for (int64_t n = 0; n < o.n; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < o.k; ++k) sum += static_cast<double>(w[n * o.k + k]) * x[k];
      error += (y[n] - sum) * (y[n] - sum);
      norm += sum * sum;
    }
    EXPECT_LT(std::sqrt(error / norm), bound);
  }
}

TEST(CpuLinear, DigitsStayWithinHalfAStep) {
  const int64_t k = 300, m = 4;
  std::vector<float> x = TestActivations(m * k, 13);
  for (int64_t i = 0; i < 128; ++i) x[i] = 0;          // an all-zero chunk
  for (int64_t i = 128; i < 256; ++i) x[i] *= 1e-38f;  // nothing representable
  x[k] = 1e30f;
  for (const Precision precision : {Precision::kA8, Precision::kA16}) {
    Activations a;
    PrepareActivations(x.data(), k, m, k, 128, nullptr, precision, DetectIsa(), &a);
    const std::vector<double> q = Quantized(a);
    for (int64_t i = 0; i < m * k; ++i) {
      const double step = a.scale[i / k * a.groups + i % k / 128];
      // Half a step, and the rounding of the float quotient.
      ASSERT_LE(std::abs(q[i] - x[i]), 0.505 * step + 1e-30) << i;
    }
  }
}

TEST(CpuLinear, NotFiniteIsNotACrash) {
  std::vector<float> x = TestActivations(256, 14);
  x[3] = std::numeric_limits<float>::quiet_NaN();
  x[200] = -std::numeric_limits<float>::infinity();
  for (const Isa isa : Isas()) {
    Activations a;
    PrepareActivations(x.data(), 256, 1, 256, 128, nullptr, Precision::kA8, isa, &a);
    EXPECT_EQ(a.groups, 2);
  }
}

// Every weight and digit at its largest: 16-bit pair sums and 32-bit sums must hold.
TEST_P(EncodingTest, ExtremesDoNotOverflow) {
  for (const int bit : {0, 1}) {
    TestMatrixOptions o = GetParam().options;
    o.n = 16, o.k = 256;
    TestMatrix m(o, 18);
    for (uint32_t& p : m.planes) p = bit == 0 ? 0 : 0xffffffffu;
    std::vector<int8_t> codes(o.n * o.k, bit == 0 ? int8_t{-128} : int8_t{127});
    if (m.view.codes != nullptr) m.view.codes = codes.data();
    std::vector<double> w(o.n * o.k);
    DequantizeRows(m.view, 0, o.n, w.data());
    for (const float value : {1.0f, -1.0f}) {
      const std::vector<float> x(5 * o.k, value);
      for (const Precision precision : {Precision::kA8, Precision::kA16}) {
        for (const Isa isa : Isas()) {
          Activations a;
          PrepareActivations(x.data(), o.k, 5, o.k, o.group, nullptr, precision, isa, &a);
          const std::vector<float> y = Product(*Make(m, isa), a);
          for (int64_t n = 0; n < o.n; ++n) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < o.k; ++k) {
              sum += w[n * o.k + k] * value;
              size += std::abs(w[n * o.k + k]);
            }
            ASSERT_NEAR(y[n], sum, 1e-5 * size) << IsaName(isa);
            ASSERT_EQ(y[4 * o.n + n], y[n]) << IsaName(isa);
          }
        }
      }
    }
  }
}

TEST(CpuLinear, BadViewIsAnError) {
  TestMatrix m({}, 15);
  m.view.group = 33;
  std::string error;
  EXPECT_EQ(CpuLinear::Create(m.view, Isa::kPortable, &error), nullptr);
  EXPECT_EQ(error, "group is 33, expected a positive multiple of 32, or at least k");
}

TEST(CpuLinear, ActivationsOfAnotherWidthGiveNaN) {
  TestMatrixOptions o;
  o.n = 20, o.k = 512;
  const TestMatrix m(o, 19);
  const std::vector<float> x = TestActivations(o.k, 20);
  Activations narrow, fine;
  PrepareActivations(x.data(), 128, 1, 128, 128, nullptr, Precision::kA8, DetectIsa(), &narrow);
  PrepareActivations(x.data(), o.k, 1, o.k, 64, nullptr, Precision::kA8, DetectIsa(), &fine);
  for (const Activations* a : {&narrow, &fine}) {
    for (const float y : Product(*Make(m, DetectIsa()), *a)) EXPECT_TRUE(std::isnan(y));
  }
}

TEST(CpuLinear, WideExponentsStillAgree) {
  TestMatrixOptions o;
  o.n = 18, o.k = 160;
  TestMatrix m(o, 16);
  for (int s = 0; s < m.view.table.count; ++s) m.view.table.exponents[s][2] = -20;
  const std::vector<float> x = TestActivations(o.k, 17);
  Activations a;
  PrepareActivations(x.data(), o.k, 1, o.k, o.group, nullptr, Precision::kA16, DetectIsa(), &a);
  const std::vector<double> xq = Quantized(a);
  std::vector<double> w(o.n * o.k);
  DequantizeRows(m.view, 0, o.n, w.data());
  for (const Isa isa : Isas()) {
    const std::vector<float> y = Product(*Make(m, isa), a);
    for (int64_t n = 0; n < o.n; ++n) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < o.k; ++k) {
        sum += w[n * o.k + k] * xq[k];
        size += std::abs(w[n * o.k + k] * xq[k]);
      }
      ASSERT_NEAR(y[n], sum, 1e-5 * size);
    }
  }
}

}  // namespace
}  // namespace shiftadd::kernels
