// Layers quantized on the device against the CPU's: on a GPU, or with the kernels emulated and
// LibTorch on the CPU. The loops are chaotic (cuda_quantize_test.cc), so losses are compared.
#include "worker/quantize/device_quantizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "worker/quantize/device_hessian.h"
#include "worker/quantize/testing/layers.h"
#include "worker/reference/device_sum.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd {
namespace {

using quantize::testing::CorrelatedHessian;
using quantize::testing::GaussianWeights;

#ifdef SHIFTADD_CUDA_EMULATED
constexpr int64_t kRows = 24;
at::Device TestDevice() { return at::kCPU; }
#else
constexpr int64_t kRows = 512;
at::Device TestDevice() { return at::kCUDA; }
#endif

class OneWeight : public WeightProvider {
 public:
  explicit OneWeight(const std::vector<float>& w) : w_(w) {}
  const ArchitectureSpec& spec() const override { return spec_; }
  bool Has(const std::string&) const override { return true; }
  absl::StatusOr<std::vector<float>> Read(const std::string&) const override { return w_; }

 private:
  const ArchitectureSpec spec_;
  const std::vector<float>& w_;
};

struct Case {
  const char* name;
  int64_t k = 192;
  int64_t group = 128;
  QuantScales scales = QuantScales::kShift;
  bool offset = false;
  QuantRotation rotation = QuantRotation::kWht128;
  QuantOrder order = QuantOrder::kNatural;
  int sweeps = 2;
  int chunks = 1;
  int dead = 0;  // inputs
};

class DeviceQuantizer : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    InitTorch();
    if (TestDevice().is_cuda() && !HasCuda()) GTEST_SKIP() << "no GPU";
    const Case& c = GetParam();
    recipe_.scales = c.scales;
    recipe_.offset = c.offset;
    recipe_.rotation = c.rotation;
    recipe_.order = c.order;
    recipe_.group = c.group;
    recipe_.sweeps = c.sweeps;
    recipe_.chunks = c.chunks;
    w_ = GaussianWeights(kRows, c.k, 3);
    for (int i = 0; i < c.chunks; ++i) {
      HessianMatrix h = CorrelatedHessian(c.k, 11 + static_cast<uint32_t>(i));
      for (double& x : h.h) x *= 1e-4;
      for (int64_t d = 0; d < c.dead; ++d) {
        const int64_t input = (d * 37 + 5) % c.k;
        for (int64_t j = 0; j < c.k; ++j) h.h[input * c.k + j] = h.h[j * c.k + input] = 0.0;
      }
      hessians_.push_back(std::move(h));
    }
  }

  std::vector<Candidate> OnCpu(const std::vector<int>& bits) const {
    std::vector<std::shared_ptr<const PreparedHessian>> prepared;
    for (const HessianMatrix& h : hessians_)
      prepared.push_back(PreparedHessian::Create(h, recipe_).value());
    return QuantizeLayer("blocks.0.mlp.up", w_, kRows, GetParam().k, prepared, recipe_, bits, 2,
                         nullptr)
        .value();
  }

  std::vector<Candidate> OnDevice(const std::vector<int>& bits) const {
    std::vector<std::shared_ptr<const DeviceHessian>> prepared;
    for (const HessianMatrix& h : hessians_) {
      reference::DeviceSum sum(h.k, TestDevice());
      at::Tensor values = at::from_blob(const_cast<double*>(h.h.data()), {h.k, h.k}, at::kDouble);
      prepared.push_back(
          DeviceHessian::Create(Filled(&sum, values * double(h.tokens)), h.tokens, recipe_)
              .value());
    }
    StageSeconds seconds;
    auto made = QuantizeLayerOnDevice(OneWeight(w_), "blocks.0.mlp.up", kRows, GetParam().k,
                                      prepared, recipe_, bits, nullptr, &seconds);
    EXPECT_TRUE(made.ok()) << made.status();
    std::vector<Candidate> out;
    for (DeviceCandidate& c : *made) {
      out.push_back(c.figures);
      out.back().blob = c.blob().value();
    }
    return out;
  }

  static InputSum* Filled(reference::DeviceSum* sum, const at::Tensor& values) {
    sum->Set(values);
    return sum;
  }

  QuantRecipe recipe_;
  std::vector<float> w_;
  std::vector<HessianMatrix> hessians_;
};

TEST_P(DeviceQuantizer, AgreesWithTheCpu) {
  const std::vector<int> bits = {2, 3, 4};
  const std::vector<Candidate> cpu = OnCpu(bits), device = OnDevice(bits);
  ASSERT_EQ(device.size(), bits.size());
  for (size_t i = 0; i < bits.size(); ++i) {
    const Candidate &a = device[i], &b = cpu[i];
    SCOPED_TRACE(testing::Message() << bits[i] << " planes");
    EXPECT_EQ(a.bits, b.bits);
    EXPECT_EQ(a.stored_bytes, b.stored_bytes);
    EXPECT_EQ(a.blob.size(), b.blob.size());
    EXPECT_DOUBLE_EQ(a.stored_bits, b.stored_bits);
    // 1 % on 512 rows; few rows: chaos does not average out.
    const double tolerance = 0.01 * std::sqrt(512.0 / kRows);
    EXPECT_NEAR(a.output_error / b.output_error, 1.0, tolerance);
    EXPECT_NEAR(a.weight_error / b.weight_error, 1.0, tolerance);
    EXPECT_NEAR(a.guided_error / b.guided_error, 1.0, tolerance);
    EXPECT_NEAR(a.sums.weight_norm / b.sums.weight_norm, 1.0, 1e-5);
    EXPECT_NEAR(a.sums.output_norm / b.sums.output_norm, 1.0, 2e-3);
    EXPECT_NEAR(a.paper_criterion / b.paper_criterion, 1.0, 1e-4);
  }
}

// The figures are those of what the blob holds.
TEST_P(DeviceQuantizer, FiguresAreTheBlobs) {
  const int64_t k = GetParam().k;
  for (const Candidate& c : OnDevice({2, 3})) {
    const std::vector<float> what = quantize::testing::LayerBlob(c.blob, recipe_.seed).Weights();
    ASSERT_EQ(what.size(), w_.size());
    double weight = 0.0, output = 0.0;
    for (int64_t row = 0; row < kRows; ++row) {
      const auto chunk = static_cast<size_t>(row * GetParam().chunks / kRows);
      const HessianMatrix& h = hessians_[chunk];
      std::vector<double> d(k);
      for (int64_t i = 0; i < k; ++i) {
        d[i] = double{w_[row * k + i]} - what[row * k + i];
        weight += d[i] * d[i];
      }
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < k; ++j) output += d[i] * h.h[i * k + j] * d[j];
      }
    }
    EXPECT_NEAR(c.sums.weight / weight, 1.0, 1e-4);
    EXPECT_NEAR(c.sums.output / output, 1.0, 5e-3);
  }
}

TEST_P(DeviceQuantizer, IsTheSameEveryTime) {
  const std::vector<Candidate> a = OnDevice({3}), b = OnDevice({3});
  EXPECT_EQ(a[0].blob, b[0].blob);
  EXPECT_EQ(a[0].sums.output, b[0].sums.output);
}

INSTANTIATE_TEST_SUITE_P(
    Recipes, DeviceQuantizer,
    ::testing::Values(Case{"shift"}, Case{"narrow", 48},
                      Case{"dead", 192, 128, QuantScales::kShift, false, QuantRotation::kWht128,
                           QuantOrder::kNatural, 2, 1, 9},
                      Case{"chunks_offset", 192, 64, QuantScales::kShift, true,
                           QuantRotation::kWht128, QuantOrder::kNatural, 1, 2},
                      Case{"free_gar", 320, 128, QuantScales::kFree, true, QuantRotation::kNone,
                           QuantOrder::kGar},
                      Case{"gar_dead", 300, 128, QuantScales::kFree, false, QuantRotation::kWht128,
                           QuantOrder::kGar, 1, 1, 5},
                      Case{"no_sweeps", 192, 128, QuantScales::kShift, false,
                           QuantRotation::kWht128, QuantOrder::kGar, 0},
                      Case{"g256", 320, 256},
                      Case{"whole_row_dead", 192, -1, QuantScales::kShift, false,
                           QuantRotation::kWht128, QuantOrder::kNatural, 1, 1, 9},
                      Case{"short_whole_row", 48, -1},
                      Case{"odd_whole_row_gar_chunks", 201, 0, QuantScales::kFree, true,
                           QuantRotation::kNone, QuantOrder::kGar, 1, 2}),
    [](const auto& info) { return std::string(info.param.name); });

#ifndef SHIFTADD_CUDA_EMULATED
INSTANTIATE_TEST_SUITE_P(LongGroups, DeviceQuantizer,
                         ::testing::Values(Case{"g256_of_less", 200, 256},
                                           Case{"g256_no_sweeps", 300, 256, QuantScales::kFree,
                                                false, QuantRotation::kWht128, QuantOrder::kGar, 0},
                                           Case{"g256_1536", 1536, 256},
                                           Case{"whole_row_576", 576, -1},
                                           Case{"whole_row_1536", 1536, -1}),
                         [](const auto& info) { return std::string(info.param.name); });
#endif

// What it does not take stays on the CPU, which has its own answer.
TEST(DeviceQuantizes, GroupsOf32OrWholeRows) {
  QuantRecipe recipe;
  recipe.method = QuantMethod::kShiftAdd;
  for (const int64_t group : {32, 64, 96, 128, 160, 256, 4096, 0, -1}) {
    recipe.group = group;
    EXPECT_TRUE(DeviceQuantizes(recipe)) << group;
  }
  recipe.group = 40;
  EXPECT_FALSE(DeviceQuantizes(recipe));
  recipe.group = 256;
  recipe.inner_rounds = 0;
  EXPECT_FALSE(DeviceQuantizes(recipe));
  recipe.inner_rounds = 1;
  for (const QuantMethod method :
       {QuantMethod::kLat, QuantMethod::kAcc, QuantMethod::kOptq, QuantMethod::kRtn}) {
    recipe.method = method;
    EXPECT_FALSE(DeviceQuantizes(recipe));
  }
}

TEST(DeviceHessian, InvertsTriangles) {
  InitTorch();
  const int64_t k = 1100;
  std::vector<double> values(k * k, 0.0);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < i; ++j) values[i * k + j] = 0.01 * std::sin(double(i * 7 + j));
    values[i * k + i] = 1.0 + 0.1 * double(i % 5);
  }
  const at::Tensor lower = at::from_blob(values.data(), {k, k}, at::kDouble);
  const at::Tensor inverse = quantize::InvertLower(lower);
  at::Tensor product = inverse.mm(lower);
  product.diagonal().sub_(1.0);
  EXPECT_LT(product.abs().max().item<double>(), 1e-10);
  EXPECT_EQ(inverse.triu(1).abs().max().item<double>(), 0.0);
}

TEST(DeviceHessian, RefusesWhatIsNotFinite) {
  InitTorch();
  reference::DeviceSum sum(4, at::kCPU);
  std::vector<double> values(16, 1.0);
  values[5] = -1.0;
  sum.Set(at::from_blob(values.data(), {4, 4}, at::kDouble));
  const auto made = DeviceHessian::Create(&sum, 1, QuantRecipe());
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shiftadd
