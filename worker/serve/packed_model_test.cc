#include "worker/serve/packed_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "services/packaging/package_format.h"
#include "worker/serve/testing/executor_cases.h"

namespace shiftadd {
namespace {

using testing::AllLogits;
using testing::ExecutorCases;
using ::testing::HasSubstr;
using testing::LoadOnCpu;
using testing::MakeTinyPackage;
using testing::ReferenceLogits;
using testing::RelativeError;
using testing::TinyPackage;
using testing::TinyPackageOptions;
using testing::Tokens;
using Precision = PackedModelOptions::Precision;

class PackedModelCases : public ::testing::TestWithParam<int> {};

TEST_P(PackedModelCases, AgreesWithDouble) {
  const TinyPackage package = MakeTinyPackage(ExecutorCases()[GetParam()].options);
  const auto tokens = Tokens(45, package.spec.vocab);
  const auto want = ReferenceLogits(package, tokens);
  const auto a16 = LoadOnCpu(package, Precision::kA16);
  const auto a8 = LoadOnCpu(package, Precision::kA8);
  ASSERT_TRUE(a16 && a8);
  const double error16 = RelativeError(AllLogits(a16.get(), tokens), want);
  const double error8 = RelativeError(AllLogits(a8.get(), tokens), want);
  EXPECT_LT(error16, 3e-4);
  EXPECT_LT(error8, 5e-2);
  // 16-bit digits must be much finer, or the option does nothing.
  EXPECT_LT(error16 * 10, error8);
}

INSTANTIATE_TEST_SUITE_P(All, PackedModelCases, ::testing::Range(0, 8),
                         [](const auto& info) { return ExecutorCases()[info.param].name; });

TEST(PackedModel, LogitsDoNotDependOnChunksBatchesThreadsOrIsa) {
  const TinyPackage package = MakeTinyPackage({});
  const auto model = LoadOnCpu(package, Precision::kAuto);
  ASSERT_TRUE(model);
  const auto tokens = Tokens(300, package.spec.vocab);
  const auto whole = AllLogits(model.get(), tokens);
  const int64_t vocab = package.spec.vocab;

  // One at a time, then in odd chunks, with another sequence in the same batches.
  for (const size_t chunk : {size_t{1}, size_t{7}, size_t{64}}) {
    const auto cache = model->NewCache(300);
    const auto other = model->NewCache(300);
    std::vector<float> got, logits;
    for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
      std::vector<BatchRow> rows = {{tokens[begin], other.get(), true}};
      const size_t end = std::min(begin + chunk, tokens.size());
      for (size_t i = begin; i < end; ++i) rows.push_back({tokens[i], cache.get(), true});
      ASSERT_TRUE(model->ForwardBatch(rows, &logits).ok());
      got.insert(got.end(), logits.begin() + vocab, logits.end());
    }
    ASSERT_EQ(got.size(), whole.size());
    EXPECT_EQ(std::memcmp(got.data(), whole.data(), got.size() * sizeof(float)), 0) << chunk;
  }
  PackedModelOptions portable;
  portable.threads = 1;
  portable.isa = kernels::Isa::kPortable;
  auto plain = PackedModel::Load(package.config_json(), package.Reader(), portable);
  ASSERT_TRUE(plain.ok()) << plain.status();
  const auto got = AllLogits(plain->get(), tokens);
  EXPECT_EQ(std::memcmp(got.data(), whole.data(), got.size() * sizeof(float)), 0);

  PackedModelOptions crowded;
  crowded.threads = 3;
  crowded.crowding = Crowding::kAlways;
  auto many = PackedModel::Load(package.config_json(), package.Reader(), crowded);
  ASSERT_TRUE(many.ok()) << many.status();
  EXPECT_EQ(AllLogits(many->get(), tokens), whole);
}

TEST(PackedModel, AHalfCacheIsHalfAsLargeAndNearlyTheSame) {
  const TinyPackage package = MakeTinyPackage({});
  const auto tokens = Tokens(70, package.spec.vocab);
  PackedModelOptions options;
  options.threads = 2;
  options.precision = Precision::kA16;  // the rounding of 8-bit activations would hide it
  const auto whole = PackedModel::Load(package.config_json(), package.Reader(), options).value();
  const auto exact = AllLogits(whole.get(), tokens);
  options.half_cache = true;
  std::vector<std::vector<float>> halves;
  for (const kernels::Isa isa :
       {kernels::Isa::kPortable, kernels::Isa::kAvx2, kernels::DetectIsa()}) {
    options.isa = std::min(isa, kernels::DetectIsa());
    const auto model = PackedModel::Load(package.config_json(), package.Reader(), options).value();
    EXPECT_EQ(2 * model->cache_page_bytes(), whole->cache_page_bytes());
    halves.push_back(AllLogits(model.get(), tokens));
    EXPECT_EQ(halves.back(), halves.front()) << kernels::IsaName(options.isa);
  }
  const double error =
      RelativeError(halves.front(), std::vector<double>(exact.begin(), exact.end()));
  EXPECT_GT(error, 0);
  EXPECT_LT(error, 2e-3);
}

TEST(PackedModel, LastLogitsOnly) {
  const TinyPackage package = MakeTinyPackage({});
  const auto model = LoadOnCpu(package, Precision::kAuto);
  const auto tokens = Tokens(20, package.spec.vocab);
  const auto all = AllLogits(model.get(), tokens);
  const auto cache = model->NewCache(20);
  std::vector<float> last;
  ASSERT_TRUE(model->Forward(tokens, cache.get(), false, &last).ok());
  ASSERT_EQ(static_cast<int64_t>(last.size()), package.spec.vocab);
  EXPECT_TRUE(std::equal(last.begin(), last.end(), all.end() - package.spec.vocab));
}

TEST(PackedModel, TruncatedCacheGoesOnFromThere) {
  const TinyPackage package = MakeTinyPackage({});
  const auto model = LoadOnCpu(package, Precision::kAuto);
  const auto tokens = Tokens(100, package.spec.vocab);
  const auto cache = model->NewCache(100);
  std::vector<float> first, second;
  ASSERT_TRUE(model->Forward(tokens, cache.get(), false, &first).ok());
  EXPECT_EQ(cache->length(), 100);
  EXPECT_EQ(model->cache_pages(), 4);
  cache->Truncate(40);
  EXPECT_EQ(cache->length(), 40);
  EXPECT_EQ(model->cache_pages(), 2);
  std::vector<float> ignored;
  const std::vector<int32_t> wrong(30, 5);
  ASSERT_TRUE(model->Forward(wrong, cache.get(), false, &ignored).ok());
  cache->Truncate(40);
  const std::vector<int32_t> rest(tokens.begin() + 40, tokens.end());
  ASSERT_TRUE(model->Forward(rest, cache.get(), false, &second).ok());
  EXPECT_EQ(first, second);
}

TEST(PackedModel, RefusesBadTokensAndFullCaches) {
  const TinyPackage package = MakeTinyPackage({});
  const auto model = LoadOnCpu(package, Precision::kAuto);
  const auto cache = model->NewCache(3);
  std::vector<float> logits;
  const int32_t vocab = static_cast<int32_t>(package.spec.vocab);
  EXPECT_EQ(model->Forward({1, vocab}, cache.get(), false, &logits).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(model->Forward({-1}, cache.get(), false, &logits).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(model->Forward({1, 2, 3, 4}, cache.get(), false, &logits).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(cache->length(), 0);
  EXPECT_TRUE(model->Forward({1, 2, 3}, cache.get(), false, &logits).ok());
  EXPECT_EQ(model->ForwardBatch({{1, nullptr, true}}, &logits).code(),
            absl::StatusCode::kInvalidArgument);
}

absl::Status LoadStatus(const TinyPackage& package, const nlohmann::json& config) {
  return PackedModel::Load(config.dump(), package.Reader(), {}).status();
}

TEST(PackedModel, RefusesBadConfigs) {
  const TinyPackage package = MakeTinyPackage({});
  nlohmann::json config = package.config;
  config["format"]["major"] = kPackageFormatMajor + 1;
  EXPECT_EQ(LoadStatus(package, config).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(LoadStatus(package, config).message()), HasSubstr("newer"));

  config = package.config;
  config["layers"].erase(3);
  EXPECT_THAT(std::string(LoadStatus(package, config).message()),
              HasSubstr("blocks.0.attn.o is missing"));
  config = package.config;
  config["layers"][0]["rows"] = 64;
  EXPECT_THAT(std::string(LoadStatus(package, config).message()), HasSubstr("blocks.0.attn.q"));
  config = package.config;
  config["layers"][0]["digest"] = "sha256:12";
  EXPECT_EQ(LoadStatus(package, config).code(), absl::StatusCode::kInvalidArgument);
  config = package.config;
  config["layers"][0]["digest"] = config["layers"][1]["digest"];
  EXPECT_FALSE(LoadStatus(package, config).ok());
  config = package.config;
  config["layers"][0]["digest"] = "sha256:" + std::string(64, '0');
  EXPECT_EQ(LoadStatus(package, config).code(), absl::StatusCode::kNotFound);
  config = package.config;
  config["exponent_sets"]["2"][0] = {1};
  EXPECT_THAT(std::string(LoadStatus(package, config).message()), HasSubstr("exponent_sets.2"));
  config = package.config;
  config.erase("head");
  EXPECT_THAT(std::string(LoadStatus(package, config).message()), HasSubstr("head: is missing"));
  EXPECT_EQ(PackedModel::Load("[]", package.Reader(), {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shiftadd
