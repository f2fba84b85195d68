// The operators of a device against this project's CPU executor: on the CPU, and on CUDA where
// there is one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "worker/reference/reference_model.h"
#include "worker/reference/testing/random_model.h"

namespace shiftadd {
namespace {

using testing::RandomModel;
using testing::RandomTokens;
using testing::TinySpec;

// The largest difference, as a fraction of the largest value expected.
double Difference(const std::vector<float>& found, const std::vector<float>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double largest = 0, worst = 0;
  for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    largest = std::max<double>(largest, std::abs(expected[i]));
    worst = std::max<double>(worst, std::abs(found[i] - expected[i]));
  }
  return worst / largest;
}

constexpr double kClose = 2e-6;

class DeviceModelTest : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    spec_ = TinySpec();
    spec_.blocks = 3;
    spec_.qkv_bias = spec_.mlp_bias = true;
    weights_ = std::make_unique<RandomModel>(spec_, 1);
    cpu_ = ReferenceModel::Create(weights_.get(), 1, 0).value();
    auto created = ReferenceModel::Create(weights_.get(), 2, 0, GetParam());
    if (created.status().code() == absl::StatusCode::kFailedPrecondition)
      GTEST_SKIP() << created.status();
    ASSERT_TRUE(created.ok()) << created.status();
    device_ = *std::move(created);
    tokens_ = RandomTokens(2, 3 * kLength, spec_.vocab);
  }

  static constexpr int64_t kLength = 300;  // beyond one chunk of attention
  ArchitectureSpec spec_;
  std::unique_ptr<RandomModel> weights_;
  std::unique_ptr<ReferenceModel> cpu_, device_;
  std::vector<int32_t> tokens_;
};

TEST_P(DeviceModelTest, RunsBlocksAndShowsTheirInputs) {
  using Inputs = std::map<std::pair<int64_t, BlockInput>, std::vector<float>>;
  const auto run = [&](ReferenceModel* model, Inputs* inputs) {
    std::mutex mutex;
    HiddenStates h = model->Embed(tokens_, 3, kLength).value();
    const InputVisitor visitor = [&](BlockInput input, int64_t sequence, const float* x, int64_t n,
                                     int64_t width) {
      std::lock_guard<std::mutex> lock(mutex);
      (*inputs)[{sequence, input}].assign(x, x + n * width);
    };
    TaskControl control;
    EXPECT_TRUE(model->RunBlock(0, &h, &visitor, &control).ok());
    EXPECT_EQ(control.progress_count, 3u);
    EXPECT_TRUE(model->RunBlocks(1, 3, &h, &control).ok());
    return h;
  };
  Inputs expected, found;
  const HiddenStates a = run(cpu_.get(), &expected), b = run(device_.get(), &found);
  EXPECT_LT(Difference(b.data, a.data), kClose);
  ASSERT_EQ(found.size(), 12u);
  for (const auto& [key, x] : expected) EXPECT_LT(Difference(found.at(key), x), kClose);
  std::vector<float> logits, expected_logits;
  ASSERT_TRUE(device_->Logits(b, 1, &logits).ok());
  ASSERT_TRUE(cpu_->Logits(a, 1, &expected_logits).ok());
  EXPECT_LT(Difference(logits, expected_logits), kClose);
}

TEST_P(DeviceModelTest, BlockByBlockIsTheSameAsAllAtOnce) {
  auto few = ReferenceModel::Create(weights_.get(), 1, 1, GetParam()).value();
  HiddenStates a = device_->Embed(tokens_, 3, kLength).value(), b = a;
  ASSERT_TRUE(device_->RunBlocks(0, 3, &a, nullptr).ok());
  ASSERT_TRUE(few->RunBlocks(0, 3, &b, nullptr).ok());
  EXPECT_EQ(a.data, b.data);
}

TEST_P(DeviceModelTest, GivesTheSameTokenWeights) {
  GuidedOptions options;
  options.chunks = 2;
  const auto expected = cpu_->TokenWeights(tokens_, 3, kLength, options, nullptr).value();
  const auto found = device_->TokenWeights(tokens_, 3, kLength, options, nullptr).value();
  // Block by block over all sequences, instead of sequence by sequence: the same numbers.
  auto few = ReferenceModel::Create(weights_.get(), 1, 1, GetParam()).value();
  HiddenStates boundary;
  options.boundary_blocks = {2};
  options.boundary = [&](int64_t, int64_t, const HiddenStates& h) {
    boundary.data.insert(boundary.data.end(), h.data.begin(), h.data.end());
  };
  const auto again = few->TokenWeights(tokens_, 3, kLength, options, nullptr).value();
  const HiddenStates of_few = std::exchange(boundary, {});
  ASSERT_TRUE(device_->TokenWeights(tokens_, 3, kLength, options, nullptr).ok());
  EXPECT_EQ(boundary.data, of_few.data);
  EXPECT_EQ(boundary.data.size(), tokens_.size() * 48);
  for (size_t b = 0; b < expected.blocks.size(); ++b) {
    EXPECT_EQ(again.blocks[b].layers, found.blocks[b].layers);
    for (size_t l = 0; l < 7; ++l)
      EXPECT_LT(Difference(found.blocks[b].layers[l], expected.blocks[b].layers[l]), 1e-5);
  }
}

TEST_P(DeviceModelTest, SumsTheProductsOfInputs) {
  std::vector<float> weights(tokens_.size());
  for (size_t t = 0; t < weights.size(); ++t) weights[t] = 0.01f * static_cast<float>(t % 7);
  HiddenStates h = device_->Embed(tokens_, 3, kLength).value(), again = h;
  // In float64, from the inputs that a visitor sees.
  std::vector<std::vector<double>> expected(3, std::vector<double>(48 * 48, 0.0));
  std::mutex mutex;
  const InputVisitor visitor = [&](BlockInput input, int64_t sequence, const float* x, int64_t n,
                                   int64_t width) {
    if (input != BlockInput::kMlp) return;
    std::lock_guard<std::mutex> lock(mutex);
    for (int64_t t = 0; t < n; ++t) {
      const float* row = x + t * width;
      double square = 0;
      for (int64_t i = 0; i < width; ++i) square += double{row[i]} * row[i];
      const double scale[3] = {1.0, static_cast<double>(width) / square,
                               weights[sequence * kLength + t]};
      for (int kind : {0, 1, 2}) {
        for (int64_t i = 0; i < width; ++i) {
          for (int64_t j = i; j < width; ++j)
            expected[kind][i * width + j] += scale[kind] * row[i] * row[j];
        }
      }
    }
  };
  ASSERT_TRUE(device_->RunBlock(1, &h, &visitor, nullptr).ok());
  std::vector<std::unique_ptr<InputSum>> sums;
  std::vector<InputToSum> inputs;
  for (const TokenScale scale : {TokenScale::kOne, TokenScale::kUnitRms, TokenScale::kGiven}) {
    sums.push_back(device_->NewInputSum(48));
    inputs.push_back({BlockInput::kMlp, scale, {}, sums.back().get()});
  }
  inputs[2].weights = weights;
  ASSERT_TRUE(device_->RunBlockSumming(1, &again, inputs, nullptr).ok());
  EXPECT_EQ(h.data, again.data);
  for (int kind : {0, 1, 2}) {
    const std::vector<double> found = sums[kind]->Take().value();
    for (int64_t i = 0; i < 48; ++i) {
      for (int64_t j = 0; j < 48; ++j) {
        const double bound = 1e-5 * std::sqrt(expected[kind][i * 49] * expected[kind][j * 49]);
        EXPECT_NEAR(found[i * 48 + j], expected[kind][i * 48 + j], bound) << kind;
      }
    }
  }
  inputs[2].weights.pop_back();
  EXPECT_EQ(device_->RunBlockSumming(1, &again, inputs, nullptr).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cpu_->NewInputSum(48), nullptr);
}

// On a GPU in bf16, where a token may be another one; a sequence is the same whichever call makes
// it.
TEST_P(DeviceModelTest, SamplesWhatTheCpuSamples) {
  const std::vector<int32_t> all = device_->Sample(5, 0, 20, 9, nullptr).value();
  EXPECT_EQ(device_->Sample(5, 15, 3, 9, nullptr).value(),
            std::vector<int32_t>(all.begin() + 15 * 9, all.begin() + 18 * 9));
  EXPECT_EQ(device_->Sample(5, 0, 20, 9, nullptr).value(), all);
  if (GetParam() != Device::kCuda) {
    EXPECT_EQ(cpu_->Sample(5, 0, 20, 9, nullptr).value(), all);
  }
  HiddenStates h = device_->Embed(tokens_, 3, kLength).value();
  EXPECT_TRUE(device_->RunBlock(2, &h, nullptr, nullptr).ok());
}

TEST_P(DeviceModelTest, StopsWhenCancelled) {
  HiddenStates h = device_->Embed(tokens_, 3, kLength).value();
  TaskControl control;
  control.cancelled = true;
  EXPECT_EQ(device_->RunBlock(0, &h, nullptr, &control).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(device_->RunBlocks(0, 3, &h, &control).code(), absl::StatusCode::kCancelled);
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceModelTest,
                         ::testing::Values(Device::kCpuOperators, Device::kCuda));

}  // namespace
}  // namespace shiftadd
