// What holds for y = x W^T wherever it is computed: linked into the test of each kind of kernel.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/linear_test_backend.h"
#include "kernels/linear_test_cases.h"
#include "kernels/test_matrix.h"

namespace shiftadd::kernels {
namespace {

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

// y is within the backend's tolerance of the terms' size.
void ExpectProduct(const TestMatrix& m, const Activations& a, LinearBackend* backend) {
  const std::vector<float> y = backend->Multiply();
  const int64_t rows = m.view.n, inputs = m.view.k;
  std::vector<double> w(rows * inputs);
  DequantizeRows(m.view, 0, rows, w.data());
  const std::vector<double> x = Quantized(a);
  ASSERT_EQ(static_cast<int64_t>(y.size()), a.m * rows);
  for (int64_t i = 0; i < a.m; ++i) {
    for (int64_t n = 0; n < rows; ++n) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < inputs; ++k) {
        sum += w[n * inputs + k] * x[i * inputs + k];
        size += std::abs(w[n * inputs + k] * x[i * inputs + k]);
      }
      ASSERT_NEAR(y[i * rows + n], sum, backend->tolerance() * size + 1e-30)
          << backend->name() << " " << rows << "x" << inputs << " group " << m.view.group
          << " token " << i << " row " << n;
    }
  }
}

LinearBackends& Backends() {
  static LinearBackends backends = MakeLinearBackends();
  return backends;
}

class LinearTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (Backends().all.empty()) GTEST_SKIP() << Backends().unavailable;
  }
};

class LinearEncodingTest : public ::testing::TestWithParam<LinearCase> {
 protected:
  void SetUp() override {
    if (Backends().all.empty()) GTEST_SKIP() << Backends().unavailable;
  }
};

TEST_P(LinearEncodingTest, AgreesWithFloat64) {
  uint32_t seed = 1;
  for (const LinearShape& s : kLinearShapes) {
    TestMatrixOptions o = GetParam().options;
    o.n = s.n, o.k = s.k, o.group = s.group;
    o.block_rows = seed % 2 == 0 ? 16 : 6;
    const TestMatrix m(o, seed++);
    const std::vector<float> x = TestActivations(s.m * s.k, seed);
    for (const auto& backend : Backends().all) {
      ASSERT_EQ(backend->Load(m.view), "");
      for (const Precision precision : {Precision::kA8, Precision::kA16}) {
        const Activations a = backend->Prepare(x, s.m, precision);
        ExpectProduct(m, a, backend.get());
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(LinearEncodingTest, GathersRowsAsDequantized) {
  for (const int64_t group : {96, 64, 128}) {
    TestMatrixOptions o = GetParam().options;
    o.n = 21, o.k = 461, o.group = group, o.rotated = true;
    const TestMatrix m(o, 9);
    std::vector<float> expected(o.n * o.k);
    DequantizeUnrotated(m.view, 0, o.n, expected.data());
    for (const auto& backend : Backends().all) {
      ASSERT_EQ(backend->Load(m.view), "");
      const std::vector<float> rows = backend->Gather();
      ASSERT_EQ(rows.size(), expected.size());
      ASSERT_EQ(std::memcmp(rows.data(), expected.data(), rows.size() * 4), 0)
          << backend->name() << " group " << group;
    }
  }
}

TEST_P(LinearEncodingTest, StaysNearTheStoredBytes) {
  TestMatrixOptions o = GetParam().options;
  o.n = 64, o.k = 1024;
  const TestMatrix m(o, 10);
  for (const auto& backend : Backends().all) {
    ASSERT_EQ(backend->Load(m.view), "");
    // 0.5 byte a row and group for an unpacked set number, and the object itself.
    EXPECT_LE(backend->bytes(), StoredBytes(m.view) + o.n * 8 + 2048) << backend->name();
  }
}

// Every weight and digit at its largest: 16-bit pair sums and 32-bit sums must hold.
TEST_P(LinearEncodingTest, ExtremesDoNotOverflow) {
  for (const int bit : {0, 1}) {
    TestMatrixOptions o = GetParam().options;
    o.n = 16, o.k = 256;
    TestMatrix m(o, 18);
    for (uint32_t& p : m.planes) p = bit == 0 ? 0 : 0xffffffffu;
    std::vector<int8_t> codes(o.n * o.k, bit == 0 ? int8_t{-128} : int8_t{127});
    if (m.view.codes != nullptr) m.view.codes = codes.data();
    std::vector<double> w(o.n * o.k);
    DequantizeRows(m.view, 0, o.n, w.data());
    for (const auto& backend : Backends().all) {
      ASSERT_EQ(backend->Load(m.view), "");
      for (const float value : {1.0f, -1.0f}) {
        const std::vector<float> x(5 * o.k, value);
        for (const Precision precision : {Precision::kA8, Precision::kA16}) {
          backend->Prepare(x, 5, precision);
          const std::vector<float> y = backend->Multiply();
          for (int64_t n = 0; n < o.n; ++n) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < o.k; ++k) {
              sum += w[n * o.k + k] * value;
              size += std::abs(w[n * o.k + k]);
            }
            ASSERT_NEAR(y[n], sum, backend->tolerance() * size) << backend->name();
            ASSERT_EQ(y[4 * o.n + n], y[n]) << backend->name();
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, LinearEncodingTest, ::testing::ValuesIn(LinearEncodings()),
                         [](const auto& info) { return info.param.name; });

TEST_F(LinearTest, RotationCancels) {
  TestMatrixOptions o;
  o.n = 40, o.k = 604, o.rotated = true, o.encoding = Encoding::kInt8Group;
  const TestMatrix m(o, 11);
  std::vector<float> w(o.n * o.k);
  DequantizeUnrotated(m.view, 0, o.n, w.data());
  const std::vector<float> x = TestActivations(o.k, 12);
  for (const auto& backend : Backends().all) {
    ASSERT_EQ(backend->Load(m.view), "");
    for (const auto& [precision, bound] :
         {std::pair{Precision::kA8, 0.03},
          std::pair{Precision::kA16, 1e-4 + backend->tolerance()}}) {
      backend->Prepare(x, 1, precision);
      const std::vector<float> y = backend->Multiply();
      double error = 0, norm = 0;
      for (int64_t n = 0; n < o.n; ++n) {
        double sum = 0;
        for (int64_t k = 0; k < o.k; ++k) sum += static_cast<double>(w[n * o.k + k]) * x[k];
        error += (y[n] - sum) * (y[n] - sum);
        norm += sum * sum;
      }
      EXPECT_LT(std::sqrt(error / norm), bound) << backend->name();
    }
  }
}

TEST_F(LinearTest, DigitsStayWithinHalfAStep) {
  TestMatrixOptions o;
  o.n = 1, o.k = 300;
  const TestMatrix matrix(o, 12);
  const int64_t k = o.k, m = 4;
  std::vector<float> x = TestActivations(m * k, 13);
  for (int64_t i = 0; i < 128; ++i) x[i] = 0;          // an all-zero chunk
  for (int64_t i = 128; i < 256; ++i) x[i] *= 1e-38f;  // nothing representable
  x[k] = 1e30f;
  for (const auto& backend : Backends().all) {
    ASSERT_EQ(backend->Load(matrix.view), "");
    for (const Precision precision : {Precision::kA8, Precision::kA16}) {
      const Activations a = backend->Prepare(x, m, precision);
      const std::vector<double> q = Quantized(a);
      for (int64_t i = 0; i < m * k; ++i) {
        const double step = a.scale[i / k * a.groups + i % k / 128];
        // Half a step, and the rounding of the float quotient.
        ASSERT_LE(std::abs(q[i] - x[i]), 0.505 * step + 1e-30) << backend->name() << " " << i;
      }
    }
  }
}

TEST_F(LinearTest, NotFiniteIsNotACrash) {
  TestMatrixOptions o;
  o.n = 1, o.k = 256;
  const TestMatrix m(o, 14);
  std::vector<float> x = TestActivations(o.k, 14);
  x[3] = std::numeric_limits<float>::quiet_NaN();
  x[200] = -std::numeric_limits<float>::infinity();
  for (const auto& backend : Backends().all) {
    ASSERT_EQ(backend->Load(m.view), "");
    EXPECT_EQ(backend->Prepare(x, 1, Precision::kA8).groups, 2) << backend->name();
    EXPECT_EQ(backend->Multiply().size(), 1u) << backend->name();
  }
}

TEST_F(LinearTest, BadViewIsAnError) {
  TestMatrix m({}, 15);
  m.view.group = 33;
  for (const auto& backend : Backends().all) {
    EXPECT_EQ(backend->Load(m.view),
              "group is 33, expected a positive multiple of 32, or at least k")
        << backend->name();
  }
}

TEST_F(LinearTest, WideExponentsStillAgree) {
  TestMatrixOptions o;
  o.n = 18, o.k = 160;
  TestMatrix m(o, 16);
  for (int s = 0; s < m.view.table.count; ++s) m.view.table.exponents[s][2] = -20;
  const std::vector<float> x = TestActivations(o.k, 17);
  for (const auto& backend : Backends().all) {
    ASSERT_EQ(backend->Load(m.view), "");
    const Activations a = backend->Prepare(x, 1, Precision::kA16);
    ExpectProduct(m, a, backend.get());
  }
}

}  // namespace
}  // namespace shiftadd::kernels
