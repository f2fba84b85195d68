// Every form that can be packed, from weights through the blob to the kernels that serve it.
#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu_linear.h"
#include "worker/quantize/testing/layers.h"

namespace shiftadd::quantize {
namespace {

constexpr int64_t kN = 21, kK = 200, kTokens = 2;  // tails of rows, of groups, of rotation blocks

// y = x W^T through the packed kernels, against float64 with the weights the blob stands for.
void ExpectKernelsAgree(const testing::LayerBlob& blob, const std::vector<float>& weights) {
  const kernels::PackedMatrix& m = blob.matrix();
  const std::vector<float> x = testing::GaussianWeights(kTokens, m.k, 80);
  for (const kernels::Isa isa : {kernels::Isa::kPortable, kernels::DetectIsa()}) {
    std::string error;
    const auto linear = kernels::CpuLinear::Create(m, isa, &error);
    ASSERT_NE(linear, nullptr) << error;
    kernels::Activations a;
    kernels::PrepareActivations(x.data(), m.k, kTokens, m.k, m.group, linear->signs(),
                                kernels::Precision::kA16, isa, &a);
    std::vector<float> y(kTokens * m.n);
    linear->Multiply(a, 0, m.n, y.data(), m.n);
    for (int64_t i = 0; i < kTokens * m.n; ++i) {
      double expected = 0.0, size = 0.0;
      for (int64_t j = 0; j < m.k; ++j) {
        const double w = weights[i % m.n * m.k + j], xj = x[i / m.n * m.k + j];
        expected += w * xj;
        size += std::fabs(w) * 0.05;  // x's spread
      }
      // Two int8 digits a value: 15 bits of the largest value, which rotation may make of all.
      ASSERT_NEAR(y[i], expected, 2e-3 * size + 1e-6) << i;
    }
  }
}

using Switches = std::tuple<QuantScales, bool, QuantRotation, int64_t>;

class ShiftAddRoundTrip : public ::testing::TestWithParam<Switches> {};

std::string SwitchesName(const ::testing::TestParamInfo<Switches>& info) {
  const auto& [scales, offset, rotation, group] = info.param;
  return std::string(scales == QuantScales::kShift ? "shift" : "free") + (offset ? "_offset" : "") +
         (rotation == QuantRotation::kNone ? "" : "_wht128") +
         (group > 0 ? "_" + std::to_string(group) : "_row");
}

INSTANTIATE_TEST_SUITE_P(
    All, ShiftAddRoundTrip,
    ::testing::Combine(::testing::Values(QuantScales::kShift, QuantScales::kFree),
                       ::testing::Bool(),
                       ::testing::Values(QuantRotation::kNone, QuantRotation::kWht128),
                       ::testing::Values(32, 64, 128, -1)),
    SwitchesName);

TEST_P(ShiftAddRoundTrip, EveryWidthWithAndWithoutSweeps) {
  QuantRecipe recipe = testing::Recipe(QuantMethod::kShiftAdd);
  std::tie(recipe.scales, recipe.offset, recipe.rotation, recipe.group) = GetParam();
  const HessianMatrix h = testing::CorrelatedHessian(kK, 81);
  const std::vector<float> w = testing::GaussianWeights(kN, kK, 82);
  const std::vector<int> bits = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<double> without;
  for (const int sweeps : {0, 2}) {
    SCOPED_TRACE(::testing::Message() << sweeps << " sweeps");
    recipe.sweeps = sweeps;
    const auto candidates = testing::Quantize(w, kN, kK, h, recipe, bits);
    ASSERT_TRUE(candidates.ok()) << candidates.status();
    for (size_t i = 0; i < bits.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << bits[i] << " planes");
      const Candidate& c = (*candidates)[i];
      const testing::LayerBlob blob(c.blob, recipe.seed);
      const std::vector<float> what = blob.Weights();
      const double base = testing::QuadraticError(w, std::vector<float>(w.size(), 0.0f), kN, h);
      const double error = testing::QuadraticError(w, what, kN, h) / base;
      EXPECT_NEAR(c.output_error, error, 1e-6 + 1e-3 * error);
      EXPECT_LT(error, std::pow(3.0, -bits[i]) + 1e-3);
      // H at its own scale: shares of it are comparable across layers.
      EXPECT_NEAR(c.sums.output, error * base, (1e-6 + 1e-3 * error) * base);
      ExpectKernelsAgree(blob, what);
      if (sweeps == 0) without.push_back(error);
      // The last sweep ends in scales that are rounded to fp16: what matters little at few planes.
      if (sweeps > 0 && bits[i] <= 4) {
        EXPECT_LT(error, without[i] * 1.001);
      }
    }
  }
}

TEST(RoundTrip, OtherMethods) {
  const HessianMatrix h = testing::CorrelatedHessian(kK, 83);
  const std::vector<float> w = testing::GaussianWeights(kN, kK, 84);
  for (const QuantMethod method : {QuantMethod::kLat, QuantMethod::kRtn, QuantMethod::kOptq}) {
    for (const int64_t group : {32, 64, 128, -1}) {
      QuantRecipe recipe = testing::Recipe(method);
      recipe.group = group;
      const auto candidates = testing::Quantize(w, kN, kK, h, recipe, {1, 2, 3, 4, 8});
      ASSERT_TRUE(candidates.ok()) << candidates.status();
      for (const Candidate& c : *candidates) {
        SCOPED_TRACE(::testing::Message() << static_cast<int>(method) << ", group " << group << ", "
                                          << c.bits << " planes");
        const testing::LayerBlob blob(c.blob, recipe.seed);
        ExpectKernelsAgree(blob, blob.Weights());
      }
    }
  }
}

}  // namespace
}  // namespace shiftadd::quantize
