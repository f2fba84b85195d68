#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/packed_matrix.h"
#include "worker/reference/counter_random.h"
#include "worker/reference/draw.h"
#include "worker/reference/exp_terms.h"
#include "worker/reference/microbatch.h"
#include "worker/reference/reference_model.h"
#include "worker/reference/testing/naive_model.h"
#include "worker/reference/testing/random_model.h"

namespace shiftadd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::RandomModel;
using testing::TinySpec;

// Known answers of the authors' Random123 library.
TEST(Philox, KnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(UniformAt, EvenAndDifferentInEveryArgument) {
  double mean = 0, square = 0;
  for (uint64_t t = 0; t < 10000; ++t) {
    const double u = UniformAt(5, 3, t);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    mean += u / 10000;
    square += u * u / 10000;
  }
  EXPECT_NEAR(mean, 0.5, 0.02);
  EXPECT_NEAR(square, 1.0 / 3, 0.02);
  EXPECT_NE(UniformAt(5, 3, 0), UniformAt(6, 3, 0));
  EXPECT_NE(UniformAt(5, 3, 0), UniformAt(5, 4, 0));
  EXPECT_NE(UniformAt(5, 3, 1), UniformAt(5, 3, uint64_t{1} << 32 | 1));
}

TEST(ExpTerms, CloseToTheExponential) {
  std::vector<float> x;
  for (int i = 0; i <= 7000; ++i) x.push_back(3.0f - 0.1f * i);
  std::vector<double> terms(x.size());
  ExpTerms(x.data(), x.size(), 3.0f, terms.data());
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(static_cast<double>(x[i]) - 3.0);
    sum += expected;
    if (x[i] - 3.0 >= -700) {
      EXPECT_NEAR(terms[i] / expected, 1, 1e-12) << x[i];
    }
  }
  EXPECT_NEAR(ExpSum(terms.data(), x.size()), sum, 1e-11);
  const float odd[] = {-INFINITY, std::numeric_limits<float>::quiet_NaN(), -800.0f, 0.0f};
  ExpTerms(odd, 4, 0.0f, terms.data());
  EXPECT_EQ(terms[0], 0);
  EXPECT_TRUE(std::isnan(terms[1]));
  EXPECT_EQ(terms[2], 0);
  EXPECT_EQ(terms[3], 1);
}

TEST(DrawFromSoftmax, InvertsTheCumulativeDistribution) {
  const std::vector<float> logits = {std::log(1.0f), std::log(2.0f), -INFINITY,
                                     std::log(5.0f)};  // 1/8, 1/4, 0, 5/8
  EXPECT_EQ(DrawFromSoftmax(logits.data(), 4, 0.0), 0);
  EXPECT_EQ(DrawFromSoftmax(logits.data(), 4, 0.1249), 0);
  EXPECT_EQ(DrawFromSoftmax(logits.data(), 4, 0.1251), 1);
  EXPECT_EQ(DrawFromSoftmax(logits.data(), 4, 0.3749), 1);
  EXPECT_EQ(DrawFromSoftmax(logits.data(), 4, 0.3751), 3);
  EXPECT_EQ(DrawFromSoftmax(logits.data(), 4, std::nextafter(1.0, 0.0)), 3);
}

TEST(DrawFromSoftmax, LongVocabulariesAndExtremes) {
  std::vector<float> logits(1000, 0.0f);
  for (int64_t i : {0, 255, 256, 511, 512, 999})
    EXPECT_EQ(DrawFromSoftmax(logits.data(), 1000, (i + 0.5) / 1000), i);
  std::fill(logits.begin(), logits.end(), -1000.0f);
  logits[300] = 1000.0f;
  for (double u : {0.0, 0.5, std::nextafter(1.0, 0.0)})
    EXPECT_EQ(DrawFromSoftmax(logits.data(), 1000, u), 300);
  logits[999] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(DrawFromSoftmax(logits.data(), 1000, 0.5), -1);
  logits[999] = INFINITY;
  EXPECT_EQ(DrawFromSoftmax(logits.data(), 1000, 0.5), -1);
}

// Weights as the sampler holds them.
void RoundToHalf(RandomModel* model) {
  for (auto& [name, values] : model->tensors) {
    if (name.find("norm") != std::string::npos || name.ends_with(".bias")) continue;
    for (float& x : values) x = kernels::HalfToFloat(kernels::FloatToHalf(x));
  }
}

// Every token must be the one that its uniform number picks from the float64 forward pass without a
// cache; a number that falls within 1e-3 of a boundary may go either way: the cache is in halves.
void ExpectDrawnFromTheModel(const ArchitectureSpec& spec, Device device) {
  RandomModel weights(spec, 21);
  RoundToHalf(&weights);
  auto model = ReferenceModel::Create(&weights, 1, 0, device).value();
  const int64_t length = 24;
  const std::vector<int32_t> tokens = model->Sample(77, 2, 3, length, nullptr).value();
  ASSERT_EQ(tokens.size(), 3u * length);
  for (int64_t s = 0; s < 3; ++s) {
    const std::vector<int32_t> sequence(tokens.begin() + s * length,
                                        tokens.begin() + (s + 1) * length);
    if (spec.bos_token >= 0) {
      EXPECT_EQ(sequence[0], spec.bos_token);
    }
    const std::vector<double> logits = testing::NaiveLogits(weights, sequence);
    for (int64_t t = 1; t < length; ++t) {
      const std::vector<double> log_p =
          testing::NaiveLogSoftmax(logits.data() + (t - 1) * spec.vocab, spec.vocab);
      double below = 0;
      for (int32_t i = 0; i < sequence[t]; ++i) below += std::exp(log_p[i]);
      const double u = UniformAt(77, 2 + s, t);
      EXPECT_GE(u, below - 1e-3) << "sequence " << s << " token " << t;
      EXPECT_LT(u, below + std::exp(log_p[sequence[t]]) + 1e-3)
          << "sequence " << s << " token " << t;
    }
  }
}

// The CPU's own decoder, and a device's on the CPU.
class SampleTest : public ::testing::TestWithParam<Device> {};

TEST_P(SampleTest, CachedDecodingDrawsFromTheUncachedModel) {
  ExpectDrawnFromTheModel(TinySpec(), GetParam());
  ArchitectureSpec s = TinySpec();
  s.tied_embeddings = s.qkv_bias = s.o_bias = s.mlp_bias = true;
  s.bos_token = -1;
  ExpectDrawnFromTheModel(s, GetParam());
  s = TinySpec();
  s.head_dim = 20;  // no whole register
  s.kv_heads = 6;
  ExpectDrawnFromTheModel(s, GetParam());
}

TEST_P(SampleTest, ASequenceIsTheSameWhicheverCallMakesIt) {
  const RandomModel weights(TinySpec(), 22);
  auto one = ReferenceModel::Create(&weights, 1, 0, GetParam()).value();
  auto two = ReferenceModel::Create(&weights, 2, 1, GetParam()).value();
  const int64_t count = 2 * kMicrobatch + 3, length = 12;
  const std::vector<int32_t> all = one->Sample(5, 0, count, length, nullptr).value();
  EXPECT_EQ(all, two->Sample(5, 0, count, length, nullptr).value());
  const std::vector<int32_t> part = two->Sample(5, kMicrobatch - 1, 3, length, nullptr).value();
  EXPECT_EQ(part, std::vector<int32_t>(all.begin() + (kMicrobatch - 1) * length,
                                       all.begin() + (kMicrobatch + 2) * length));
  auto many = ReferenceModel::Create(&weights, 7, 1, GetParam()).value();
  EXPECT_EQ(all, many->Sample(5, 0, count, length, nullptr).value());
  EXPECT_NE(all, one->Sample(6, 0, count, length, nullptr).value());
}

TEST_P(SampleTest, BlocksRunAfterwardsAsBefore) {
  const RandomModel weights(TinySpec(), 23);
  auto model = ReferenceModel::Create(&weights, 1, 0, GetParam()).value();
  HiddenStates before = model->Embed({1, 2, 3}, 1, 3).value(), after = before;
  ASSERT_TRUE(model->RunBlock(0, &before, nullptr, nullptr).ok());
  ASSERT_TRUE(model->Sample(1, 0, 1, 4, nullptr).ok());
  ASSERT_TRUE(model->RunBlock(0, &after, nullptr, nullptr).ok());
  EXPECT_EQ(before.data, after.data);
}

TEST_P(SampleTest, ReportsProgressAndStopsWhenCancelled) {
  const RandomModel weights(TinySpec(), 24);
  auto model = ReferenceModel::Create(&weights, 1, 0, GetParam()).value();
  TaskControl control;
  ASSERT_TRUE(model->Sample(1, 0, 2, 10, &control).ok());
  EXPECT_GE(control.progress_count, 9u);
  EXPECT_NEAR(control.progress, 1.0, 1e-9);
  control.cancelled = true;
  EXPECT_EQ(model->Sample(1, 0, 2, 10, &control).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(model->Sample(1, 0, 2, 0, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(SampleTest, LogitsThatAreNotFiniteAreAnError) {
  RandomModel weights(TinySpec(), 25);
  weights.tensors["final_norm"][0] = std::numeric_limits<float>::infinity();
  auto model = ReferenceModel::Create(&weights, 1, 0, GetParam()).value();
  const absl::Status status = model->Sample(1, 0, 1, 4, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.ToString(), HasSubstr("not finite"));
}

TEST_P(SampleTest, PartsAreThoseOfTheWhole) {
  RandomModel weights(TinySpec(), 27);
  auto model = ReferenceModel::Create(&weights, 1, 0, GetParam()).value();
  const auto tokens = model->Sample(1, kMicrobatch + 5, 2, 6, nullptr).value();
  const auto all = model->Sample(1, 0, 2 * kMicrobatch, 6, nullptr).value();
  EXPECT_EQ(tokens, std::vector<int32_t>(all.begin() + (kMicrobatch + 5) * 6,
                                         all.begin() + (kMicrobatch + 7) * 6));
}

// Of half precision, which the CPU has them in.
TEST(Sample, NamesTheLayerThatMakesActivationsInfinite) {
  RandomModel weights(TinySpec(), 26);
  for (float& w : weights.tensors["blocks.1.mlp.down"]) w *= 1e30f;
  auto model = ReferenceModel::Create(&weights, 1, 0).value();
  const absl::Status status = model->Sample(1, 0, 3, 4, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.ToString(), HasSubstr("blocks.1.mlp.down"));
}

INSTANTIATE_TEST_SUITE_P(Devices, SampleTest,
                         ::testing::Values(Device::kCpu, Device::kCpuOperators),
                         [](const auto& info) {
                           return info.param == Device::kCpu ? "Cpu" : "CpuOperators";
                         });

}  // namespace
}  // namespace shiftadd
