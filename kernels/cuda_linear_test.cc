#include "kernels/cuda_linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>

#include "kernels/cuda/test_device.h"
#include "kernels/linear_test_backend.h"
#include "kernels/test_matrix.h"

namespace shiftadd::kernels {
namespace {

using cuda::Check;
using cuda::DeviceVector;
using cuda::Graph;

// A weight and an activation rounded to fp16 once each.
constexpr double kHalfTolerance = 1e-3;
// fp16 weights of 16 rows, an input.
constexpr uint64_t kTileBytes = 32;

class CudaBackend : public LinearBackend {
 public:
  CudaBackend(std::string name, CudaPath path, CudaWorkspace* workspace = nullptr,
              double tolerance = 1e-5)
      : name_(std::move(name)), tolerance_(tolerance) {
    options_.path = path;
    options_.workspace = workspace;
  }
  std::string name() const override { return name_; }
  double tolerance() const override { return tolerance_; }

  std::string Load(const PackedMatrix& w) override {
    linear_.reset();
    signs_.clear();
    if (w.signs != nullptr) signs_.assign(w.signs, w.signs + w.plane_words());
    return CudaLinear::Create(w, nullptr, &linear_).message;
  }
  uint64_t bytes() const override { return linear_->bytes(); }

  Activations Prepare(const std::vector<float>& x, int64_t m, Precision precision) override {
    activations_.reset();
    Check(CudaActivations::Create(m, linear_->k(), linear_->group(), precision,
                                  signs_.empty() ? nullptr : signs_.data(), &activations_));
    const DeviceVector<float> device(x);
    Check(activations_->Prepare(device.data(), linear_->k(), m, nullptr));
    Activations out;
    Check(activations_->ToHost(nullptr, &out));
    return out;
  }

  // Into rows longer than they need be, and not a number before: what is beyond stays as it was.
  std::vector<float> Multiply() override {
    const int64_t n = linear_->n(), m = activations_->m(), stride = n + 3;
    DeviceVector<float> y(m * stride);
    y.FillBytes(0xff);
    const CudaProduct product = {linear_.get(), y.data(), stride};
    Check(CudaMultiply(*activations_, &product, 1, nullptr, options_));
    Check(cudaDeviceSynchronize());
    const std::vector<float> padded = y.ToHost();
    std::vector<float> out;
    for (int64_t i = 0; i < m; ++i) {
      const float* row = padded.data() + i * stride;
      out.insert(out.end(), row, row + n);
      for (int64_t j = n; j < stride; ++j) EXPECT_TRUE(std::isnan(row[j])) << name_;
    }
    return out;
  }

  std::vector<float> Gather() override {
    std::vector<int32_t> rows(linear_->n());
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
    const DeviceVector<int32_t> device(rows);
    const DeviceVector<float> out(linear_->n() * linear_->k());
    Check(linear_->GatherRows(device.data(), linear_->n(), out.data(), linear_->k(), nullptr));
    return out.ToHost();
  }

 private:
  std::string name_;
  double tolerance_;
  CudaMultiplyOptions options_;
  std::vector<uint32_t> signs_;
  std::unique_ptr<CudaLinear> linear_;
  std::unique_ptr<CudaActivations> activations_;
};

// Matrices of one input, and the input.
class CudaLinearTest : public ::testing::Test {
 protected:
  static constexpr int64_t kInputs = 1344;  // not a multiple of 256

  void SetUp() override {
    if (const CudaStatus s = CudaAvailable(); !s.ok()) GTEST_SKIP() << s.message;
  }

  std::unique_ptr<CudaLinear> Load(const TestMatrix& m) {
    std::unique_ptr<CudaLinear> out;
    Check(CudaLinear::Create(m.view, nullptr, &out));
    return out;
  }
  std::unique_ptr<CudaActivations> Activate(const std::vector<float>& x, int64_t m,
                                            Precision precision = Precision::kA8,
                                            int64_t group = 128) {
    std::unique_ptr<CudaActivations> out;
    const int64_t k = static_cast<int64_t>(x.size()) / m;
    Check(CudaActivations::Create(m, k, group, precision, nullptr, &out));
    const DeviceVector<float> device(x);
    Check(out->Prepare(device.data(), k, m, nullptr));
    Check(cudaDeviceSynchronize());
    return out;
  }
  std::vector<float> Multiply(const CudaActivations& x, const CudaLinear& w,
                              const CudaMultiplyOptions& options = {}) {
    const DeviceVector<float> y(x.m() * w.n());
    const CudaProduct product = {&w, y.data(), w.n()};
    Check(CudaMultiply(x, &product, 1, nullptr, options));
    Check(cudaDeviceSynchronize());
    return y.ToHost();
  }
  void ExpectTheBitsOfOneLaunchEach(const std::vector<int64_t>& sizes, CudaWorkspace* workspace);
};

TEST_F(CudaLinearTest, PreparesTheBitsOfTheCpu) {
  for (const int64_t k : {128, 1, 31, 200, 576, 1000, 8192}) {
    for (const int64_t group : {32, 64, 96, 128, 160, 256, 9000}) {
      for (const Precision precision : {Precision::kA8, Precision::kA16}) {
        for (const bool rotated : {false, true}) {
          const int64_t m = k > 1000 ? 1 : 5;
          std::vector<float> x = TestActivations(m * k, static_cast<uint32_t>(k));
          if (k == 576) std::fill_n(x.begin(), 128, 1e-38f);
          const std::vector<uint32_t> signs(static_cast<size_t>((k + 31) / 32), 0x9b15c3a6u);
          const uint32_t* s = rotated ? signs.data() : nullptr;
          Activations expected, found;
          PrepareActivations(x.data(), k, m, k, group, s, precision, Isa::kPortable, &expected);
          std::unique_ptr<CudaActivations> a;
          Check(CudaActivations::Create(m + 2, k, group, precision, s, &a));
          const DeviceVector<float> device(x);
          Check(a->Prepare(device.data(), k, m, nullptr));
          Check(a->ToHost(nullptr, &found));
          const std::string what = "k " + std::to_string(k) + " group " + std::to_string(group);
          ASSERT_EQ(found.groups, expected.groups) << what;
          ASSERT_EQ(found.digits, expected.digits) << what;
          ASSERT_EQ(found.scale, expected.scale) << what;
          ASSERT_EQ(found.digit_sum, expected.digit_sum) << what;
          ASSERT_EQ(found.sum, expected.sum) << what;
        }
      }
    }
  }
}

// The fused producers against float64: every digit's value within half a step and the rounding of
// the producer.
void ExpectNear(const Activations& a, const std::vector<double>& expected) {
  for (int64_t i = 0; i < a.m * a.k; ++i) {
    const int64_t token = i / a.k, input = i % a.k;
    const double step = a.scale[token * a.groups + input / 128];
    const int64_t at = token * a.k_padded + input;
    const double value = 255.0 * a.digits[at] + a.digits[a.m * a.k_padded + at];
    ASSERT_NEAR(value * step, expected[i], 0.51 * step + 1e-6 * std::abs(expected[i])) << i;
  }
}

TEST_F(CudaLinearTest, RmsNormIsFused) {
  const int64_t m = 3, k = kInputs, ld = k + 5;
  const std::vector<float> x = TestActivations(m * ld, 31), weight = TestActivations(k, 32);
  std::vector<double> expected(m * k);
  for (int64_t i = 0; i < m; ++i) {
    double squares = 0;
    for (int64_t j = 0; j < k; ++j) squares += static_cast<double>(x[i * ld + j]) * x[i * ld + j];
    const double rms = std::sqrt(squares / static_cast<double>(k) + 1e-5);
    for (int64_t j = 0; j < k; ++j) expected[i * k + j] = x[i * ld + j] / rms * weight[j];
  }
  std::unique_ptr<CudaActivations> a;
  Check(CudaActivations::Create(m, k, 128, Precision::kA16, nullptr, &a));
  const DeviceVector<float> dx(x), dw(weight);
  Check(a->PrepareRmsNorm(dx.data(), ld, dw.data(), 1e-5f, m, nullptr));
  Activations host;
  Check(a->ToHost(nullptr, &host));
  ExpectNear(host, expected);
}

// The bits of adding first.
TEST_F(CudaLinearTest, AddRmsNormIsFused) {
  const int64_t m = 3, k = kInputs, ld = k + 5;
  const std::vector<float> x = TestActivations(m * ld, 35), add = TestActivations(m * ld, 36);
  const std::vector<float> weight = TestActivations(k, 37);
  std::vector<float> sum(x);
  for (size_t i = 0; i < x.size(); ++i) sum[i] = x[i] + add[i];
  std::unique_ptr<CudaActivations> a;
  Check(CudaActivations::Create(m, k, 128, Precision::kA8, nullptr, &a));
  const DeviceVector<float> dx(x), da(add), dw(weight), dsum(sum);
  DeviceVector<float> out(x.size());
  Activations expected, found;
  Check(a->PrepareRmsNorm(dsum.data(), ld, dw.data(), 1e-5f, m, nullptr));
  Check(a->ToHost(nullptr, &expected));
  Check(a->PrepareAddRmsNorm(dx.data(), da.data(), out.data(), ld, dw.data(), 1e-5f, m, nullptr));
  Check(a->ToHost(nullptr, &found));
  EXPECT_EQ(found.digits, expected.digits);
  EXPECT_EQ(found.scale, expected.scale);
  const std::vector<float> got = out.ToHost();
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < k; ++j) ASSERT_EQ(got[i * ld + j], sum[i * ld + j]) << i << " " << j;
  }
  EXPECT_NE(a->PrepareAddRmsNorm(dx.data(), da.data(), dx.data(), ld, dw.data(), 1e-5f, m, nullptr)
                .message.find("sum is x or add"),
            std::string::npos);
}

TEST_F(CudaLinearTest, SiluMulIsFused) {
  const int64_t m = 2, k = kInputs;
  const std::vector<float> gate = TestActivations(m * k, 33), up = TestActivations(m * k, 34);
  std::vector<double> expected(m * k);
  for (size_t i = 0; i < gate.size(); ++i) {
    expected[i] = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * up[i];
  }
  std::unique_ptr<CudaActivations> a;
  Check(CudaActivations::Create(m, k, 128, Precision::kA16, nullptr, &a));
  const DeviceVector<float> dg(gate), du(up);
  Check(a->PrepareSiluMul(dg.data(), du.data(), k, m, nullptr));
  Activations host;
  Check(a->ToHost(nullptr, &host));
  ExpectNear(host, expected);
}

// One launch of several matrices gives the bits of one launch each.
void CudaLinearTest::ExpectTheBitsOfOneLaunchEach(const std::vector<int64_t>& sizes,
                                                  CudaWorkspace* workspace) {
  const TestMatrix q({.q = 2, .n = 40, .k = kInputs}, 1);
  const TestMatrix k({.q = 4, .n = 17, .k = kInputs}, 2);
  const TestMatrix v({.encoding = Encoding::kBcqFree, .q = 3, .zeta = true, .n = 100, .k = kInputs},
                     3);
  const TestMatrix other({.encoding = Encoding::kInt8Group, .n = 33, .k = kInputs}, 4);
  const TestMatrix odd({.q = 5, .n = 30, .k = kInputs}, 5);
  for (const std::vector<const TestMatrix*>& set :
       {std::vector{&q, &k, &v}, std::vector{&v, &other, &odd, &k}}) {
    for (const int64_t m : sizes) {
      const auto x = Activate(TestActivations(m * kInputs, 6), m);
      CudaMultiplyOptions options;
      options.workspace = workspace;
      std::vector<std::unique_ptr<CudaLinear>> linears;
      std::vector<DeviceVector<float>> outputs;
      std::vector<CudaProduct> products;
      for (const TestMatrix* t : set) {
        linears.push_back(Load(*t));
        outputs.emplace_back(m * t->view.n);
        products.push_back({linears.back().get(), outputs.back().data(), t->view.n});
      }
      Check(CudaMultiply(*x, products.data(), static_cast<int>(products.size()), nullptr, options));
      Check(cudaDeviceSynchronize());
      for (size_t i = 0; i < set.size(); ++i) {
        EXPECT_EQ(outputs[i].ToHost(), Multiply(*x, *linears[i], options))
            << "matrix " << i << " m " << m;
      }
    }
  }
}

TEST_F(CudaLinearTest, SeveralMatricesShareALaunch) {
  ExpectTheBitsOfOneLaunchEach({1, 2, 3, 7, 16, 40}, nullptr);
}

TEST_F(CudaLinearTest, SeveralDenseMatricesShareALaunch) {
  constexpr int64_t kMany = 300;
  std::unique_ptr<CudaWorkspace> workspace;
  Check(CudaWorkspace::Create(kMany, kInputs, 100 * 2 * 1408, &workspace));
  ExpectTheBitsOfOneLaunchEach({kMany}, workspace.get());
}

// A chain of preparation and product, plain, in a graph, and with programmatic launches.
TEST_F(CudaLinearTest, RunsGiveTheSameBits) {
  const int64_t m = 2;
  const TestMatrix up({.q = 3, .n = kInputs, .k = kInputs}, 7);
  const TestMatrix down({.q = 2, .n = 200, .k = kInputs}, 8);
  const auto first = Load(up), second = Load(down);
  const DeviceVector<float> x(TestActivations(m * kInputs, 9));
  const DeviceVector<float> between(m * kInputs), y(m * 200);
  std::unique_ptr<CudaActivations> a, b;
  Check(CudaActivations::Create(m, kInputs, 128, Precision::kA8, nullptr, &a));
  Check(CudaActivations::Create(m, kInputs, 128, Precision::kA8, nullptr, &b));
  std::vector<float> expected;
  for (const bool programmatic : {false, true}) {
    Graph graph([&](cudaStream_t stream) {
      CudaMultiplyOptions options;
      options.programmatic = programmatic;
      const CudaProduct one = {first.get(), between.data(), kInputs};
      const CudaProduct two = {second.get(), y.data(), 200};
      for (int i = 0; i < 20; ++i) {  // each step overwrites what the one before read
        Check(a->Prepare(x.data(), kInputs, m, stream));
        Check(CudaMultiply(*a, &one, 1, stream, options));
        Check(b->Prepare(between.data(), kInputs, m, stream));
        Check(CudaMultiply(*b, &two, 1, stream, options));
      }
    });
    for (int run = 0; run < 5; ++run) {
      graph.Launch();
      graph.Wait();
      const std::vector<float> found = y.ToHost();
      if (expected.empty()) expected = found;
      ASSERT_EQ(std::memcmp(found.data(), expected.data(), found.size() * 4), 0)
          << "programmatic " << programmatic << " run " << run;
    }
  }
}

// Other orders of summation, the same sums.
TEST_F(CudaLinearTest, AnyNumberOfWarpsAgrees) {
  const TestMatrix m({.q = 4, .n = 64, .k = 8192}, 10);
  const auto w = Load(m);
  const auto x = Activate(TestActivations(8192, 11), 1);
  const std::vector<float> expected = Multiply(*x, *w);
  double norm = 0;
  for (const float v : expected) norm += static_cast<double>(v) * v;
  for (const CudaPath path : {CudaPath::kBinary, CudaPath::kInteger, CudaPath::kHalf}) {
    for (const int warps : {1, 2, 3, 4, 8, 16, 99}) {
      CudaMultiplyOptions options;
      options.path = path;
      options.warps = warps;
      const std::vector<float> y = Multiply(*x, *w, options);
      double error = 0;
      for (size_t n = 0; n < y.size(); ++n) {
        error += std::pow(static_cast<double>(y[n]) - expected[n], 2);
      }
      EXPECT_LT(std::sqrt(error / norm), path == CudaPath::kHalf ? 4e-4 : 2e-5) << warps;
    }
  }
}

// Thread blocks that multiply many tiles, of one matrix and the next: the same bits.
TEST_F(CudaLinearTest, BlocksShareTiles) {
  for (const auto& [encoding, q] :
       {std::pair{Encoding::kBcqShift, 2}, std::pair{Encoding::kBcqShift, 3},
        std::pair{Encoding::kBcqFree, 2}, std::pair{Encoding::kBcqFree, 3}}) {
    const bool zeta = encoding == Encoding::kBcqFree;
    const TestMatrix one({.encoding = encoding, .q = q, .zeta = zeta, .n = 200, .k = kInputs}, 12);
    const TestMatrix two({.encoding = encoding, .q = q, .zeta = zeta, .n = 70, .k = kInputs}, 13);
    const auto first = Load(one), second = Load(two);
    for (const int64_t m : {1, 2, 4, 8, 16}) {
      const auto x = Activate(TestActivations(m * kInputs, 14), m);
      for (const CudaPath path : {CudaPath::kBinary, CudaPath::kInteger, CudaPath::kHalf}) {
        if (path == CudaPath::kBinary && m > 4) continue;
        std::vector<float> expected;
        for (const int blocks : {1 << 20, 17, 4, 1}) {
          CudaMultiplyOptions options;
          options.path = path;
          options.blocks = blocks;
          const DeviceVector<float> y(m * 270);
          const CudaProduct products[] = {{first.get(), y.data(), 200},
                                          {second.get(), y.data() + m * 200, 70}};
          Check(CudaMultiply(*x, products, 2, nullptr, options));
          Check(cudaDeviceSynchronize());
          if (expected.empty()) expected = y.ToHost();
          EXPECT_EQ(y.ToHost(), expected) << "m " << m << ", " << blocks << " blocks";
        }
      }
    }
  }
}

// More tiles than fit the device at once, every path; x and y are aligned to no more than a float.
TEST_F(CudaLinearTest, ManyTilesAgreeWithFloat64) {
  const int64_t n = 17003, k = 512;
  for (const Encoding encoding : {Encoding::kBcqShift, Encoding::kBcqFree, Encoding::kInt8Group}) {
    const TestMatrix m({.encoding = encoding, .q = 3, .n = n, .k = k}, 21);
    const auto w = Load(m);
    std::vector<double> weights(n * k);
    DequantizeRows(m.view, 0, n, weights.data());
    for (const int64_t tokens : {1, 2, 5, 16, 24, 100}) {
      std::vector<float> x = TestActivations(tokens * k + 1, 22);
      const DeviceVector<float> device(x);
      std::unique_ptr<CudaActivations> a;
      Check(CudaActivations::Create(tokens, k, 128, Precision::kA8, nullptr, &a));
      Check(a->Prepare(device.data() + 1, k, tokens, nullptr));
      const DeviceVector<float> out(tokens * n + 1);
      const CudaProduct product = {w.get(), out.data() + 1, n};
      Check(CudaMultiply(*a, &product, 1, nullptr));
      Check(cudaDeviceSynchronize());
      const std::vector<float> y = out.ToHost();
      Activations digits;
      Check(a->ToHost(nullptr, &digits));
      const int64_t token = tokens - 1;
      for (int64_t row = 0; row < n; ++row) {
        double sum = 0, size = 0;
        for (int64_t i = 0; i < k; ++i) {
          const double term = weights[row * k + i] * digits.scale[token * 4 + i / 128] *
                              digits.digits[token * k + i];
          sum += term;
          size += std::abs(term);
        }
        ASSERT_NEAR(y[1 + token * n + row], sum, 1e-5 * size) << tokens << " tokens, row " << row;
      }
    }
  }
}

// In pieces, from a graph, in a workspace whose memory says nothing before; every run the same
// bits.
TEST_F(CudaLinearTest, DenseProductsAreCaptured) {
  const int64_t n = 5000, k = 1344, m = 300;
  std::unique_ptr<CudaWorkspace> workspace;
  Check(CudaWorkspace::Create(m, k, 2 * 1408 * 700, &workspace));
  ASSERT_TRUE(workspace->dense()) << workspace->cublas();
  EXPECT_EQ(workspace->cublas().substr(0, 7), "cuBLAS ");
  EXPECT_GE(workspace->bytes(), 2u * 1408 * (700 + m) + (32u << 20));
  const TestMatrix matrix({.q = 3, .n = n, .k = k}, 41);
  const auto w = Load(matrix);
  CudaMultiplyOptions options;
  options.workspace = workspace.get();
  for (const Precision precision : {Precision::kA8, Precision::kA16}) {
    const auto x = Activate(TestActivations(m * k, 42), m, precision);
    EXPECT_EQ(CudaPathFor(*x, m, *w, options), CudaPath::kDense);
    const std::vector<float> exact = Multiply(*x, *w);
    const DeviceVector<float> y(m * n);
    Graph graph([&](cudaStream_t stream) {
      const CudaProduct product = {w.get(), y.data(), n};
      Check(CudaMultiply(*x, &product, 1, stream, options));
    });
    std::vector<float> first;
    for (int run = 0; run < 3; ++run) {
      graph.Launch();
      graph.Wait();
      std::vector<float> found = y.ToHost();
      if (run == 0) first = found;
      ASSERT_EQ(found, first);
    }
    double error = 0, norm = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      error += std::pow(static_cast<double>(first[i]) - exact[i], 2);
      norm += static_cast<double>(exact[i]) * exact[i];
    }
    EXPECT_LT(std::sqrt(error / norm), 4e-4);
    EXPECT_GT(error, 0);  // it was another path
  }
}

// Weights and activations far beyond what fp16 holds, both ways.
TEST_F(CudaLinearTest, DenseProductsAreScaled) {
  const int64_t k = 256, n = 32, m = 4;
  std::unique_ptr<CudaWorkspace> workspace;
  Check(CudaWorkspace::Create(m, k, 1 << 20, &workspace));
  for (const Encoding encoding :
       {Encoding::kBcqShift, Encoding::kBcqFree, Encoding::kInt8Group, Encoding::kBcqBlock8}) {
    for (const uint16_t half : {uint16_t{0x7bff}, uint16_t{0x0001}}) {  // 65504, 2^-24
      TestMatrix matrix({.encoding = encoding, .q = 3, .n = n, .k = k}, 43);
      for (auto* halves : {&matrix.scale, &matrix.alpha}) {
        for (uint16_t& h : *halves) h = half;
      }
      const auto w = Load(matrix);
      std::vector<double> weights(n * k);
      DequantizeRows(matrix.view, 0, n, weights.data());
      for (const float size : {1e10f, 1e-10f}) {
        std::vector<float> input = TestActivations(m * k, 44);
        for (float& v : input) v *= size;
        const auto x = Activate(input, m, Precision::kA16);
        CudaMultiplyOptions options;
        options.path = CudaPath::kDense;
        options.workspace = workspace.get();
        const std::vector<float> y = Multiply(*x, *w, options);
        for (int64_t i = 0; i < m * n; ++i) {
          double sum = 0, magnitude = 0;
          for (int64_t j = 0; j < k; ++j) {
            const double term = weights[i % n * k + j] * input[i / n * k + j];
            sum += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(y[i], sum, 2e-3 * magnitude) << i << " half " << half << " size " << size;
        }
      }
    }
  }
}

TEST_F(CudaLinearTest, PathsAreToldBefore) {
  std::unique_ptr<CudaWorkspace> workspace;
  Check(CudaWorkspace::Create(2000, kInputs, CudaWorkspace::kDefaultWeightBytes, &workspace));
  const auto shift = Load(TestMatrix({.q = 3, .n = 40, .k = kInputs}, 51));
  const auto block8 =
      Load(TestMatrix({.encoding = Encoding::kBcqBlock8, .q = 3, .n = 40, .k = kInputs}, 52));
  const auto x = Activate(TestActivations(kInputs, 53), 1);
  CudaMultiplyOptions with;
  with.workspace = workspace.get();
  EXPECT_EQ(CudaPathFor(*x, 1, *shift, with), CudaPath::kBinary);
  EXPECT_EQ(CudaPathFor(*x, 16, *shift, with), CudaPath::kInteger);
  EXPECT_EQ(CudaPathFor(*x, 1024, *shift, with), CudaPath::kDense);
  EXPECT_EQ(CudaPathFor(*x, 1024, *block8, with), CudaPath::kDense);
  EXPECT_EQ(CudaPathFor(*x, 1, *block8, with), CudaPath::kPlain);
  EXPECT_NE(CudaPathFor(*x, 1024, *shift), CudaPath::kDense);
  EXPECT_EQ(CudaPathFor(*x, 1024, *block8), CudaPath::kPlain);
}

// Without cuBLAS the other paths work as ever, and what is missing has its words.
TEST_F(CudaLinearTest, NoCublasIsTold) {
  setenv("SHIFTADD_CUBLAS", "/nowhere/libcublas.so", 1);
  std::unique_ptr<CudaWorkspace> workspace;
  const CudaStatus created = CudaWorkspace::Create(1024, kInputs, 1 << 20, &workspace);
  unsetenv("SHIFTADD_CUBLAS");
  Check(created);
  EXPECT_FALSE(workspace->dense());
  EXPECT_EQ(workspace->bytes(), 0u);
  EXPECT_NE(workspace->cublas().find("/nowhere/libcublas.so"), std::string::npos);
  const auto w = Load(TestMatrix({.n = 40, .k = kInputs}, 61));
  const auto x = Activate(TestActivations(300 * kInputs, 62), 300);
  CudaMultiplyOptions options;
  options.workspace = workspace.get();
  EXPECT_EQ(Multiply(*x, *w, options), Multiply(*x, *w));
  options.path = CudaPath::kDense;
  const DeviceVector<float> y(300 * 40);
  const CudaProduct product = {w.get(), y.data(), 40};
  EXPECT_EQ(CudaMultiply(*x, &product, 1, nullptr, options).code, CudaCode::kUnavailable);
}

TEST_F(CudaLinearTest, RowsOutsideGatherNaN) {
  const TestMatrix m({.n = 20, .k = 300}, 12);
  const auto w = Load(m);
  const DeviceVector<int32_t> rows(std::vector<int32_t>{-1, 20, 19});
  const DeviceVector<float> out(3 * 300);
  Check(w->GatherRows(rows.data(), 3, out.data(), 300, nullptr));
  const std::vector<float> host = out.ToHost();
  EXPECT_TRUE(std::isnan(host[0]));
  EXPECT_TRUE(std::isnan(host[599]));
  EXPECT_FALSE(std::isnan(host[899]));
}

// Every refusal has its words, and the next good call works: no error stays behind.
TEST_F(CudaLinearTest, BadInputIsRefused) {
  const TestMatrix m({.n = 40, .k = kInputs}, 13);
  const auto w = Load(m);
  const auto x = Activate(TestActivations(2 * kInputs, 14), 2);
  const std::vector<float> expected = Multiply(*x, *w);
  const DeviceVector<float> y(2 * 40), input(2 * kInputs);
  std::vector<float> host(2 * kInputs);
  std::unique_ptr<CudaActivations> fresh, made;
  Check(CudaActivations::Create(2, kInputs, 128, Precision::kA8, nullptr, &fresh));
  const std::vector<uint32_t> signs((kInputs + 31) / 32, 5);
  const auto create = [&](int64_t tokens, int64_t k, int64_t group) {
    return CudaActivations::Create(tokens, k, group, Precision::kA8, nullptr, &made);
  };
  const auto multiply = [&](const CudaActivations& a, CudaProduct product, int count = 1,
                            CudaPath path = CudaPath::kAuto) {
    CudaMultiplyOptions options;
    options.path = path;
    return CudaMultiply(a, &product, count, nullptr, options);
  };
  const auto with = [&](const std::function<void(PackedMatrix*)>& change) {
    PackedMatrix bad = m.view;
    change(&bad);
    std::unique_ptr<CudaLinear> out;
    return CudaLinear::Create(bad, nullptr, &out);
  };
  const auto prepared_with = [&](int64_t k, int64_t group, const uint32_t* s) {
    std::unique_ptr<CudaActivations> a;
    Check(CudaActivations::Create(1, k, group, Precision::kA8, s, &a));
    Check(a->Prepare(input.data(), k, 1, nullptr));
    return a;
  };
  std::unique_ptr<CudaWorkspace> small, narrow, made_workspace;
  Check(CudaWorkspace::Create(1, kInputs, 1 << 20, &small));
  Check(CudaWorkspace::Create(2, kInputs - 1, 1 << 20, &narrow));
  const auto workspace = [&](int64_t tokens, int64_t inputs, uint64_t bytes) {
    return CudaWorkspace::Create(tokens, inputs, bytes, &made_workspace);
  };
  const auto dense = [&](CudaWorkspace* in, CudaPath path = CudaPath::kDense) {
    CudaMultiplyOptions options;
    options.path = path;
    options.workspace = in;
    const CudaProduct product = {w.get(), y.data(), 40};
    return CudaMultiply(*x, &product, 1, nullptr, options);
  };
  float* const aligned = y.data();
  auto* const odd = reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(aligned) + 2);
  const std::string size = std::to_string(kInputs);
  const std::vector<std::pair<CudaStatus, std::string>> refusals = {
      {create(0, kInputs, 128), "max_m is 0, expected 1..1048576"},
      {create(1, 0, 128), "k is 0, expected 1..2147483647"},
      {create(1, int64_t{1} << 31, 128), "k is 2147483648, expected 1..2147483647"},
      {create(1, kInputs, 33), "group is 33, expected a positive multiple of 32, or at least k"},
      {create(1 << 20, 1 << 20, 128), "allocating"},
      {fresh->Prepare(input.data(), kInputs, 3, nullptr), "m is 3, expected 1..2"},
      {fresh->Prepare(input.data(), kInputs, 0, nullptr), "m is 0, expected 1..2"},
      {fresh->Prepare(input.data(), 7, 1, nullptr), "row stride of x is 7, expected " + size},
      {fresh->Prepare(nullptr, kInputs, 1, nullptr), "x is null"},
      {fresh->Prepare(host.data(), kInputs, 1, nullptr), "x is not device memory"},
      {fresh->Prepare(odd, kInputs, 1, nullptr), "x is not aligned to 4 bytes"},
      {fresh->PrepareRmsNorm(input.data(), kInputs, nullptr, 0, 1, nullptr), "weight is null"},
      {fresh->PrepareSiluMul(input.data(), host.data(), kInputs, 1, nullptr),
       "up is not device memory"},
      {multiply(*fresh, {w.get(), aligned, 40}), "the activations were not prepared yet"},
      {multiply(*x, {nullptr, aligned, 40}), "products[0].w is null"},
      {multiply(*x, {w.get(), nullptr, 40}), "products[0].y is null"},
      {multiply(*x, {w.get(), odd, 40}), "products[0].y is not aligned to 4 bytes"},
      {multiply(*x, {w.get(), host.data(), 40}), "products[0].y is not device memory"},
      {multiply(*x, {w.get(), aligned, 39}), "products[0].ldy is 39, expected 40.."},
      {multiply(*x, {w.get(), aligned, 40}, 0), "count is 0, expected 1..4"},
      {multiply(*x, {w.get(), aligned, 40}, 5), "count is 5, expected 1..4"},
      {CudaMultiply(*x, nullptr, 1, nullptr), "products is null"},
      {multiply(*prepared_with(128, 128, nullptr), {w.get(), aligned, 40}),
       "products[0].w has k " + size + ", the activations 128"},
      {multiply(*prepared_with(kInputs, 64, nullptr), {w.get(), aligned, 40}),
       "products[0].w has groups of 128, the activations were prepared for 64"},
      {multiply(*prepared_with(kInputs, 128, signs.data()), {w.get(), aligned, 40}),
       "products[0].w is rotated with other signs than the activations"},
      {workspace(0, kInputs, 1 << 20), "max_m is 0, expected 1..1048576"},
      {workspace(1, 0, 1 << 20), "max_k is 0, expected 1..2147483647"},
      {workspace(1, kInputs, 32 * 1408 - 1), "weight_bytes is 45055, expected 45056.."},
      {workspace(1, kInputs, ~uint64_t{0}), "weight_bytes is 9223372036854775807, expected"},
      {workspace(1 << 20, 1 << 30, uint64_t{1} << 36), "allocating"},
      {dense(nullptr), "the dense path needs a workspace"},
      {dense(small.get()), "m in this workspace is 2, expected 1..1"},
      {dense(narrow.get()), "k in this workspace is " + size + ", expected 1.."},
      {dense(nullptr, CudaPath::kPlain), "kPlain is not a path to ask for"},
      {w->GatherRows(nullptr, 1, aligned, kInputs, nullptr), "rows is null"},
      {w->GatherRows(reinterpret_cast<int32_t*>(aligned), 0, aligned, kInputs, nullptr),
       "count is 0, expected 1.."},
      {with([](PackedMatrix* v) { v->n = 0; }), "n is 0, expected 1..2147483647"},
      {with([](PackedMatrix* v) { v->k = int64_t{1} << 31; }), "k is 2147483648, expected"},
      {with([](PackedMatrix* v) { v->n = v->k = (int64_t{1} << 31) - 1; }), "a matrix of"},
      {with([](PackedMatrix* v) { v->q = 9; }), "q is 9, expected 1..8"},
      {with([](PackedMatrix* v) { v->planes = nullptr; }), "planes is null"},
      {with([](PackedMatrix* v) { v->table.count = 17; }), "table.count is 17, expected 1..16"},
  };
  for (size_t i = 0; i < refusals.size(); ++i) {
    const auto& [status, words] = refusals[i];
    EXPECT_FALSE(status.ok()) << i;
    EXPECT_EQ(status.message.substr(0, words.size()), words) << i;
    EXPECT_NE(status.code, CudaCode::kInternal) << status.message;
  }
  const auto five = Activate(TestActivations(5 * kInputs, 15), 5);
  EXPECT_EQ(multiply(*five, {w.get(), aligned, 40}, 1, CudaPath::kBinary).message,
            "the binary path takes 4 digits * tokens, found 5");
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(Multiply(*x, *w), expected);
}

// Wherever this runs: without a device every call that needs one says so, each time.
// SHIFTADD_EXPECTED_FAULT: what it is to say, of a driver that a stub stands for.
TEST(CudaLinear, NoDeviceIsAStatus) {
  const CudaStatus available = CudaAvailable();
  const char* const expected = std::getenv("SHIFTADD_EXPECTED_FAULT");
  if (expected == nullptr && available.ok()) GTEST_SKIP() << "there is a device";
  EXPECT_EQ(available.code, CudaCode::kUnavailable);
  EXPECT_NE(available.message, "");
  if (expected != nullptr) {
    EXPECT_EQ(available.message.find(expected), 0u) << available.message;
  }
  EXPECT_EQ(CudaAvailable().message, available.message);
  const TestMatrix m({}, 1);
  std::unique_ptr<CudaLinear> w;
  EXPECT_EQ(CudaLinear::Create(m.view, nullptr, &w).code, CudaCode::kUnavailable);
  std::unique_ptr<CudaActivations> a;
  EXPECT_EQ(CudaActivations::Create(1, 128, 128, Precision::kA8, nullptr, &a).code,
            CudaCode::kUnavailable);
}

}  // namespace

LinearBackends MakeLinearBackends() {
  LinearBackends backends;
  if (const CudaStatus s = CudaAvailable(); !s.ok()) {
    backends.unavailable = s.message;
    return backends;
  }
  backends.all.push_back(std::make_unique<CudaBackend>("cuda", CudaPath::kAuto));
  backends.all.push_back(std::make_unique<CudaBackend>("cuda integer", CudaPath::kInteger));
  backends.all.push_back(std::make_unique<CudaBackend>("cuda prompt", CudaPath::kPrompt));
  backends.all.push_back(
      std::make_unique<CudaBackend>("cuda half", CudaPath::kHalf, nullptr, kHalfTolerance));
  // Weights in pieces of a few tiles.
  static std::unique_ptr<CudaWorkspace> workspace;
  Check(CudaWorkspace::Create(70, 4736, kTileBytes * 4736, &workspace));
  if (workspace->dense()) {
    backends.all.push_back(std::make_unique<CudaBackend>("cuda dense", CudaPath::kDense,
                                                         workspace.get(), kHalfTolerance));
  }
  return backends;
}

}  // namespace shiftadd::kernels
