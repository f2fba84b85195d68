// The executor on a GPU for every family of tests/golden/families.json: against transformers and
// the executor on the CPU.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "worker/model/model_source.h"
#include "worker/model/testing/golden_family.h"
#include "worker/serve/cuda/cuda_model.h"
#include "worker/serve/testing/tiny_package.h"

namespace shiftadd {
namespace {

using nlohmann::json;
using Precision = PackedModelOptions::Precision;

// Keys and values in fp16, queries and exponentials of a prompt with 11 bits: of the range of
// logits, and as a root mean square. With 8 bits an activation a rounding that differs moves a
// digit.
constexpr double kBound16 = 2e-3;
constexpr double kBound8 = 5e-2;

std::vector<int32_t> Tokens(int count) {
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back((i * 29 + i * i * 3 + 5) % 320);
  return ids;
}

double RelativeError(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  if (got.size() != want.size() || want.empty()) return std::numeric_limits<double>::infinity();
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = double{got[i]} - want[i];
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    error += difference * difference;
    size += double{want[i]} * want[i];
  }
  return std::sqrt(error / size);
}

// `step` tokens at a time.
std::vector<float> Logits(PackedModel* model, const std::vector<int32_t>& ids, size_t step) {
  const auto cache = model->NewCache(static_cast<int64_t>(ids.size()));
  std::vector<float> all, part;
  for (size_t at = 0; at < ids.size(); at += step) {
    const std::vector<int32_t> some(ids.begin() + at,
                                    ids.begin() + std::min(ids.size(), at + step));
    const absl::Status status = model->Forward(some, cache.get(), true, &part);
    EXPECT_TRUE(status.ok()) << status;
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

class CudaFamily : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (const auto device = DescribeCudaDevice(); !device.ok()) GTEST_SKIP() << device.status();
    golden_ = testing::GoldenCase(testing::GoldenFamilies(), GetParam());
    const std::string directory = absl::StrCat(std::filesystem::temp_directory_path().string(),
                                               "/cuda_family_", ::getpid(), "_", GetParam());
    ASSERT_TRUE(testing::WriteGoldenFamily(golden_, directory).ok());
    auto source = ModelSource::Open(directory);
    ASSERT_TRUE(source.ok()) << source.status();
    package_ = testing::MakeRawPackage(**source);
    std::filesystem::remove_all(directory);
  }

  std::unique_ptr<PackedModel> Load(const testing::TinyPackage& package, Precision precision,
                                    bool batch_invariant = false) {
    CudaModelOptions options;
    options.precision = precision;
    options.batch_invariant = batch_invariant;
    auto model = LoadCudaModel(package.config_json(), package.Reader(), options);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }
  std::unique_ptr<PackedModel> LoadCpu(const testing::TinyPackage& package, Precision precision) {
    PackedModelOptions options;
    options.precision = precision;
    options.threads = 2;
    auto model = PackedModel::Load(package.config_json(), package.Reader(), options);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

  json golden_;
  testing::TinyPackage package_;  // the golden weights, nothing quantized
};

TEST_P(CudaFamily, LogitsAreThoseOfTransformers) {
  const auto model = Load(package_, Precision::kA16);
  ASSERT_NE(model, nullptr);
  const auto ids = golden_.at("ids").get<std::vector<int32_t>>();
  for (const size_t step : {ids.size(), size_t{1}}) {
    const double error = testing::GoldenError(golden_, Logits(model.get(), ids, step));
    EXPECT_LT(error, kBound16) << "steps of " << step;
    std::printf("%-14s %2zu tokens at a time: largest error %.2g of the range of logits\n",
                GetParam().c_str(), step, error);
  }
}

// 100 tokens: four pages of the cache, many windows, tiles whose first page some rows do not see.
TEST_P(CudaFamily, LongSequencesAgreeWithTheCpu) {
  const auto cpu = LoadCpu(package_, Precision::kA16);
  ASSERT_NE(cpu, nullptr);
  const auto ids = Tokens(100);
  const auto want = Logits(cpu.get(), ids, ids.size());
  for (const bool invariant : {false, true}) {
    const auto model = Load(package_, Precision::kA16, invariant);
    ASSERT_NE(model, nullptr);
    const auto whole = Logits(model.get(), ids, ids.size());
    EXPECT_LT(RelativeError(whole, want), kBound16);
    for (const size_t step : {1, 9, 33}) {
      const auto steps = Logits(model.get(), ids, step);
      EXPECT_LT(RelativeError(steps, want), kBound16) << "steps of " << step;
      if (invariant) {
        EXPECT_EQ(steps, whole) << "steps of " << step;
      }
    }
  }
}

// The same architecture with random planes and an int8 head.
TEST_P(CudaFamily, PackedLayersAgreeWithTheCpu) {
  testing::TinyPackageOptions options;
  options.spec = package_.spec;
  const testing::TinyPackage package = testing::MakeTinyPackage(options);
  const auto ids = Tokens(70);
  for (const Precision precision : {Precision::kA16, Precision::kA8}) {
    const double bound = precision == Precision::kA16 ? kBound16 : kBound8;
    const auto cpu = LoadCpu(package, precision), model = Load(package, precision);
    ASSERT_TRUE(cpu && model);
    const auto want = Logits(cpu.get(), ids, ids.size());
    EXPECT_LT(RelativeError(Logits(model.get(), ids, ids.size()), want), bound);
    EXPECT_LT(RelativeError(Logits(model.get(), ids, 1), want), bound);
  }
}

TEST_P(CudaFamily, PositionsThatTheModelHasNotAreAnError) {
  const auto model = Load(package_, Precision::kA16);
  ASSERT_NE(model, nullptr);
  const int64_t context = model->spec().context;
  if (context > 4096) return;  // a long context
  const auto cache = model->NewCache(context + 1);
  std::vector<float> logits;
  const std::vector<int32_t> ids(context + 1, 5);
  const absl::Status status = model->Forward(ids, cache.get(), false, &logits);
  const bool learned = model->spec().position == PositionKind::kLearned;
  EXPECT_EQ(status.code(), learned ? absl::StatusCode::kOutOfRange : absl::StatusCode::kOk)
      << status;
}

// Sequences of different lengths in one step, and tokens drawn on the device: capped logits too.
TEST_P(CudaFamily, BatchesAndTheSamplerSeeTheSameLogits) {
  const auto model = Load(package_, Precision::kA16, /*batch_invariant=*/true);
  ASSERT_NE(model, nullptr);
  const int64_t vocab = model->spec().vocab;
  const auto ids = Tokens(40);
  const auto want = Logits(model.get(), ids, 1);
  const auto first = model->NewCache(64), second = model->NewCache(64);
  std::vector<float> logits;
  ASSERT_TRUE(model->Forward({ids.begin(), ids.begin() + 19}, first.get(), false, &logits).ok());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(model
                    ->ForwardBatch({{ids[19 + i], first.get(), true}, {ids[i], second.get(), true}},
                                   &logits)
                    .ok());
    const auto row = [&](int r) {
      return std::vector<float>(want.begin() + r * vocab, want.begin() + (r + 1) * vocab);
    };
    const auto half = logits.begin() + vocab;
    EXPECT_EQ(std::vector<float>(logits.begin(), half), row(19 + i)) << i;
    EXPECT_EQ(std::vector<float>(half, logits.end()), row(i)) << i;
  }
  const auto cache = model->NewCache(64);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 6; ++i) {
    BatchRow row{ids[i], cache.get(), true};
    row.sample = true;  // temperature 0: the largest
    ASSERT_TRUE(model->ForwardSample({row}, &logits, &tokens).ok());
    ASSERT_EQ(tokens.size(), 1u);
    const auto at = want.begin() + i * vocab;
    EXPECT_EQ(tokens[0], std::max_element(at, at + vocab) - at) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaFamily,
                         ::testing::ValuesIn(testing::GoldenNames(testing::GoldenFamilies())),
                         [](const auto& info) { return testing::GoldenTestName(info.param); });

}  // namespace
}  // namespace shiftadd
