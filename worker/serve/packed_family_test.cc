// The packed executor against transformers, for every family (tests/golden/families.json), on
// packages whose matrices are plain numbers: what is left is the executor's own arithmetic.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "worker/model/model_source.h"
#include "worker/model/testing/golden_family.h"
#include "worker/serve/packed_model.h"
#include "worker/serve/testing/tiny_package.h"

namespace shiftadd {
namespace {

using nlohmann::json;

// Of the range of logits; both sides compute in fp32.
constexpr double kBound = 2e-5;

class PackedFamilyTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = testing::GoldenCase(testing::GoldenFamilies(), GetParam());
    const std::string directory = absl::StrCat(std::filesystem::temp_directory_path().string(),
                                               "/packed_family_", ::getpid(), "_", GetParam());
    ASSERT_TRUE(testing::WriteGoldenFamily(golden_, directory).ok());
    auto source = ModelSource::Open(directory);
    ASSERT_TRUE(source.ok()) << source.status();
    package_ = testing::MakeRawPackage(**source);
    std::filesystem::remove_all(directory);
    ids_ = golden_.at("ids").get<std::vector<int32_t>>();
  }
  std::unique_ptr<PackedModel> Load(kernels::Isa isa = kernels::DetectIsa()) {
    PackedModelOptions options;
    options.threads = 2;
    options.isa = isa;
    auto model = PackedModel::Load(package_.config_json(), package_.Reader(), options);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

  json golden_;
  testing::TinyPackage package_;
  std::vector<int32_t> ids_;
};

TEST_P(PackedFamilyTest, LogitsAreThoseOfTransformers) {
  const auto model = Load();
  ASSERT_NE(model, nullptr);
  std::vector<float> logits;
  const auto cache = model->NewCache(64);
  ASSERT_TRUE(model->Forward(ids_, cache.get(), /*all_logits=*/true, &logits).ok());
  const double error = testing::GoldenError(golden_, logits);
  EXPECT_LT(error, kBound);
  std::printf("%-14s packed     largest error %.2g of the range of logits\n", GetParam().c_str(),
              error);
}

// 70 tokens: three pages of the cache, and several windows.
TEST_P(PackedFamilyTest, HowAPromptIsCutDoesNotMatter) {
  const auto model = Load();
  ASSERT_NE(model, nullptr);
  std::vector<int32_t> ids;
  for (int i = 0; i < 70; ++i) ids.push_back((i * 29 + 5) % 320);
  std::vector<float> whole, part;
  const auto cache = model->NewCache(70);
  ASSERT_TRUE(model->Forward(ids, cache.get(), true, &whole).ok());
  for (const int step : {1, 9, 33}) {
    const auto grown = model->NewCache(70);
    std::vector<float> all;
    for (size_t at = 0; at < ids.size(); at += step) {
      const std::vector<int32_t> some(ids.begin() + at,
                                      ids.begin() + std::min(ids.size(), at + step));
      ASSERT_TRUE(model->Forward(some, grown.get(), true, &part).ok());
      all.insert(all.end(), part.begin(), part.end());
    }
    EXPECT_EQ(all, whole) << "steps of " << step;
  }
}

TEST_P(PackedFamilyTest, InstructionSetsGiveTheSameBits) {
  std::vector<float> expected;
  for (const kernels::Isa isa :
       {kernels::Isa::kPortable, kernels::Isa::kAvx2, kernels::Isa::kAvx512}) {
    if (static_cast<int>(isa) > static_cast<int>(kernels::DetectIsa())) continue;
    const auto model = Load(isa);
    ASSERT_NE(model, nullptr);
    std::vector<float> logits;
    const auto cache = model->NewCache(64);
    ASSERT_TRUE(model->Forward(ids_, cache.get(), true, &logits).ok());
    if (expected.empty()) expected = logits;
    EXPECT_EQ(logits, expected);
  }
}

TEST_P(PackedFamilyTest, PositionsThatTheModelHasNotAreAnError) {
  const auto model = Load();
  ASSERT_NE(model, nullptr);
  const int64_t context = model->spec().context;
  if (context > 4096) GTEST_SKIP() << "a long context";
  const auto cache = model->NewCache(context + 1);
  std::vector<float> logits;
  const std::vector<int32_t> ids(context + 1, 5);
  const absl::Status status = model->Forward(ids, cache.get(), false, &logits);
  if (model->spec().position == PositionKind::kLearned) {
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << status;
  } else {
    EXPECT_TRUE(status.ok()) << status;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PackedFamilyTest,
                         ::testing::ValuesIn(testing::GoldenNames(testing::GoldenFamilies())),
                         [](const auto& info) { return testing::GoldenTestName(info.param); });

}  // namespace
}  // namespace shiftadd
