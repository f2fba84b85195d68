#include "kernels/cpu_linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/linear_test_backend.h"
#include "kernels/linear_test_cases.h"
#include "kernels/test_matrix.h"

namespace shiftadd::kernels {
namespace {

std::vector<Isa> Isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (isa <= DetectIsa()) isas.push_back(isa);
  }
  return isas;
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

class EncodingTest : public ::testing::TestWithParam<LinearCase> {};

TEST_P(EncodingTest, InstructionSetsAgreeBitForBit) {
  uint32_t seed = 100;
  for (const LinearShape& s : kLinearShapes) {
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

INSTANTIATE_TEST_SUITE_P(All, EncodingTest, ::testing::ValuesIn(LinearEncodings()),
                         [](const auto& info) { return info.param.name; });

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

class CpuBackend : public LinearBackend {
 public:
  explicit CpuBackend(Isa isa) : isa_(isa) {}
  std::string name() const override { return IsaName(isa_); }
  std::string Load(const PackedMatrix& w) override {
    std::string error;
    linear_ = CpuLinear::Create(w, isa_, &error);
    return error;
  }
  uint64_t bytes() const override { return linear_->bytes(); }
  Activations Prepare(const std::vector<float>& x, int64_t m, Precision precision) override {
    activations_ = Activations();
    PrepareActivations(x.data(), linear_->k(), m, linear_->k(), linear_->group(), linear_->signs(),
                       precision, isa_, &activations_);
    return activations_;
  }
  std::vector<float> Multiply() override { return Product(*linear_, activations_); }
  std::vector<float> Gather() override {
    std::vector<float> rows(linear_->n() * linear_->k());
    for (int64_t n = 0; n < linear_->n(); ++n) {
      linear_->GatherRow(n, rows.data() + n * linear_->k());
    }
    return rows;
  }

 private:
  Isa isa_;
  std::unique_ptr<CpuLinear> linear_;
  Activations activations_;
};

}  // namespace

LinearBackends MakeLinearBackends() {
  LinearBackends backends;
  for (const Isa isa : Isas()) backends.all.push_back(std::make_unique<CpuBackend>(isa));
  return backends;
}

}  // namespace shiftadd::kernels
