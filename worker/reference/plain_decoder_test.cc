// What a package's speed is compared with computes what the model computes, for every family.
#include "worker/reference/plain_decoder.h"

#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cctype>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "worker/model/testing/golden_family.h"
#include "worker/reference/source_bench.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

using nlohmann::json;

// Of the range of logits, in fp32.
constexpr double kBound = 2e-5;

class PlainDecoderTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    InitTorch();
    golden_ = testing::GoldenCase(testing::GoldenFamilies(), GetParam());
    directory_ = absl::StrCat(std::filesystem::temp_directory_path().string(), "/plain_",
                              ::getpid(), "_", GetParam());
    ASSERT_TRUE(testing::WriteGoldenFamily(golden_, directory_).ok());
    auto source = ModelSource::Open(directory_);
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
    const auto ids = golden_.at("ids").get<std::vector<int64_t>>();
    ids_.assign(ids.begin(), ids.end());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<PlainDecoder> Create(at::ScalarType type = at::kFloat) {
    auto decoder = PlainDecoder::Create(*source_, at::kCPU, {type, Length()});
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    return decoder.ok() ? *std::move(decoder) : nullptr;
  }
  int64_t Length() const { return static_cast<int64_t>(ids_.size()); }
  at::Tensor Ids(int64_t first, int64_t count) {
    return at::from_blob(ids_.data() + first, {count}, at::kLong);
  }
  // Appends the logits that the decoder has.
  static void Add(const PlainDecoder& decoder, std::vector<float>* logits) {
    const at::Tensor row = decoder.logits().to(at::kFloat).contiguous();
    const float* values = row.const_data_ptr<float>();
    logits->insert(logits->end(), values, values + row.numel());
    EXPECT_EQ(decoder.token().item<int64_t>(), row.argmax().item<int64_t>());
  }
  // One token at a time.
  std::vector<float> Stepped(PlainDecoder* decoder) {
    std::vector<float> logits;
    for (int64_t i = 0; i < Length(); ++i) {
      decoder->Run(Ids(i, 1), i);
      Add(*decoder, &logits);
    }
    return logits;
  }

  json golden_;
  std::string directory_;
  std::unique_ptr<ModelSource> source_;
  std::vector<int64_t> ids_;
};

TEST_P(PlainDecoderTest, TokensHaveTheLogitsOfTransformers) {
  const auto decoder = Create();
  ASSERT_NE(decoder, nullptr);
  EXPECT_LT(testing::GoldenError(golden_, Stepped(decoder.get())), kBound);
}

TEST_P(PlainDecoderTest, PromptsHaveTheLogitsOfTransformers) {
  const auto decoder = Create();
  ASSERT_NE(decoder, nullptr);
  std::vector<float> logits;
  for (int64_t n = 1; n <= Length(); ++n) {
    decoder->Run(Ids(0, n), 0);
    Add(*decoder, &logits);
  }
  EXPECT_LT(testing::GoldenError(golden_, logits), kBound);
  // A prompt goes on behind another, too.
  const std::vector<float> whole(logits.end() - source_->spec().vocab, logits.end());
  std::vector<float> parts;
  decoder->Run(Ids(0, Length() / 2), 0);
  decoder->Run(Ids(Length() / 2, Length() - Length() / 2), Length() / 2);
  Add(*decoder, &parts);
  for (size_t i = 0; i < whole.size(); ++i) ASSERT_NEAR(parts[i], whole[i], 1e-4) << i;
}

TEST_P(PlainDecoderTest, Bf16IsNearFullPrecision) {
  const auto decoder = Create(at::kBFloat16);
  ASSERT_NE(decoder, nullptr);
  EXPECT_LT(testing::GoldenError(golden_, Stepped(decoder.get())), 0.04);
}

TEST_P(PlainDecoderTest, IsMeasured) {
  BenchOptions options;
  options.context = 8;
  options.seconds = 0.01;
  const auto figures = BenchSource(*source_, Device::kCpu, 1, options);
  ASSERT_TRUE(figures.ok()) << figures.status();
  EXPECT_GT(figures->token.median_seconds, 0);
  EXPECT_GT(figures->prompt.runs, 0);
  // fp32 or bf16, whichever was faster.
  uint64_t numbers = 0;
  for (const SourceTensor& tensor : source_->tensors())
    numbers += static_cast<uint64_t>(tensor.info.elements());
  EXPECT_EQ(figures->weight_bytes % numbers, 0u);
  EXPECT_LE(figures->weight_bytes / numbers, 4u);
  EXPECT_GE(figures->weight_bytes / numbers, 2u);
}

INSTANTIATE_TEST_SUITE_P(Families, PlainDecoderTest,
                         ::testing::ValuesIn(testing::GoldenNames(testing::GoldenFamilies())),
                         [](const auto& info) { return testing::GoldenTestName(info.param); });

}  // namespace
}  // namespace shiftadd::reference
