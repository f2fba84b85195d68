// The full-precision executor against transformers, for every family (tests/golden/families.json,
// family_ggufs.json).
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "worker/model/families.h"
#include "worker/model/model_source.h"
#include "worker/model/testing/golden_family.h"
#include "worker/reference/counter_random.h"
#include "worker/reference/reference_model.h"
#include "worker/reference/testing/difference.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd {
namespace {

using nlohmann::json;
using testing::Difference;

// Of the range of logits; both sides compute in fp32.
constexpr double kBound = 2e-5;

// The CPU, its operators, and a GPU where there is one.
std::vector<Device> Devices() {
  InitTorch();
  std::vector<Device> devices = {Device::kCpu, Device::kCpuOperators};
  if (HasCuda()) devices.push_back(Device::kCuda);
  return devices;
}
const char* Name(Device device) {
  return device == Device::kCpu ? "cpu" : device == Device::kCuda ? "cuda" : "operators";
}

class FamilyTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = testing::GoldenCase(testing::GoldenFamilies(), GetParam());
    directory_ = absl::StrCat(std::filesystem::temp_directory_path().string(), "/family_",
                              ::getpid(), "_", GetParam());
    ASSERT_TRUE(testing::WriteGoldenFamily(golden_, directory_).ok());
    auto source = ModelSource::Open(directory_);
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
    ids_ = golden_.at("ids").get<std::vector<int32_t>>();
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<ReferenceModel> Create(Device device = Device::kCpu) {
    auto model = ReferenceModel::Create(source_.get(), 1, 0, device);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }
  std::vector<float> Logits(ReferenceModel* model) {
    const int64_t length = static_cast<int64_t>(ids_.size());
    HiddenStates h = model->Embed(ids_, 1, length).value();
    EXPECT_TRUE(model->RunBlocks(0, model->spec().blocks, &h, nullptr).ok());
    std::vector<float> logits;
    EXPECT_TRUE(model->Logits(h, 0, &logits).ok());
    return logits;
  }

  json golden_;
  std::string directory_;
  std::unique_ptr<ModelSource> source_;
  std::vector<int32_t> ids_;
};

TEST_P(FamilyTest, LogitsAreThoseOfTransformers) {
  for (const Device device : Devices()) {
    const auto model = Create(device);
    ASSERT_NE(model, nullptr);
    const double error = testing::GoldenError(golden_, Logits(model.get()));
    EXPECT_LT(error, kBound);
    RecordProperty(absl::StrCat("error_", Name(device)), absl::StrCat(error));
    std::printf("%-14s %-10s largest error %.2g of the range of logits\n", GetParam().c_str(),
                Name(device), error);
  }
}

TEST_P(FamilyTest, TokenWeightsAreThoseOfAutograd) {
  for (const Device device : Devices()) {
    const auto model = Create(device);
    ASSERT_NE(model, nullptr);
    GuidedOptions options;
    auto found = model->TokenWeights(ids_, 1, static_cast<int64_t>(ids_.size()), options, nullptr);
    ASSERT_TRUE(found.ok()) << found.status();
    const std::vector<LinearLayer> layers = BlockLayers(model->spec(), 0);
    ASSERT_EQ(found->blocks[0].layers.size(), layers.size());
    for (size_t i = 0; i < layers.size(); ++i) {
      const json& expected = golden_.at("token_weights").at(layers[i].kind);
      double largest = 0;
      for (const json& e : expected) largest = std::max(largest, e.get<double>());
      for (size_t t = 0; t < expected.size(); ++t) {
        EXPECT_NEAR(found->blocks[0].layers[i][t], expected[t].get<double>(), 2e-4 * largest)
            << layers[i].kind << " token " << t;
      }
    }
  }
}

// What is drawn with a cache, in halves, has the likelihood that the model without one gives it.
TEST_P(FamilyTest, SamplesComeFromTheSameLogits) {
  const auto model = Create();
  ASSERT_NE(model, nullptr);
  constexpr int64_t kSequences = 24, kLength = 40;
  auto sampled = model->Sample(7, 0, kSequences, kLength, nullptr);
  ASSERT_TRUE(sampled.ok()) << sampled.status();
  HiddenStates h = model->Embed(*sampled, kSequences, kLength).value();
  ASSERT_TRUE(model->RunBlocks(0, model->spec().blocks, &h, nullptr).ok());
  const int64_t vocab = model->spec().vocab;
  double nll = 0, entropy = 0, variance = 0;
  for (int64_t s = 0; s < kSequences; ++s) {
    std::vector<float> logits;
    ASSERT_TRUE(model->Logits(h, s, &logits).ok());
    for (int64_t t = 0; t + 1 < kLength; ++t) {
      const float* row = logits.data() + t * vocab;
      double sum = 0, mean = 0, square = 0;
      for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(row[i]));
      for (int64_t i = 0; i < vocab; ++i) {
        const double log_p = row[i] - std::log(sum);
        mean -= std::exp(log_p) * log_p;
        square += std::exp(log_p) * log_p * log_p;
      }
      nll += std::log(sum) - row[(*sampled)[s * kLength + t + 1]];
      entropy += mean;
      variance += square - mean * mean;
    }
  }
  EXPECT_NEAR(nll, entropy, 4 * std::sqrt(variance)) << "four standard deviations";
}

// Token for token: each is the one that its uniform number picks from the logits of a forward pass
// without a cache; a number within 2e-3 of a boundary may go either way, for the cache is in
// halves. The weights are those that the sampler holds, in halves too.
TEST_P(FamilyTest, EveryDrawIsThatOfTheModelWithoutACache) {
  ASSERT_TRUE(testing::WriteGoldenFamily(golden_, directory_, "", /*halves=*/true).ok());
  const auto source = ModelSource::Open(directory_);
  ASSERT_TRUE(source.ok()) << source.status();
  const auto model = ReferenceModel::Create(source->get(), 1, 0).value();
  constexpr int64_t kFirst = 2, kSequences = 3, kLength = 40;
  constexpr double kNear = 2e-3;
  const auto tokens = model->Sample(77, kFirst, kSequences, kLength, nullptr);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  HiddenStates h = model->Embed(*tokens, kSequences, kLength).value();
  ASSERT_TRUE(model->RunBlocks(0, model->spec().blocks, &h, nullptr).ok());
  const int64_t vocab = model->spec().vocab;
  for (int64_t s = 0; s < kSequences; ++s) {
    std::vector<float> logits;
    ASSERT_TRUE(model->Logits(h, s, &logits).ok());
    for (int64_t t = 1; t < kLength; ++t) {
      const float* row = logits.data() + (t - 1) * vocab;
      const int32_t token = (*tokens)[s * kLength + t];
      double sum = 0, below = 0;
      for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(row[i]));
      for (int64_t i = 0; i < token; ++i) below += std::exp(static_cast<double>(row[i])) / sum;
      const double u = UniformAt(77, kFirst + s, t);
      EXPECT_GE(u, below - kNear) << "sequence " << s << " token " << t;
      EXPECT_LT(u, below + std::exp(static_cast<double>(row[token])) / sum + kNear)
          << "sequence " << s << " token " << t;
    }
  }
}

TEST_P(FamilyTest, ConfigurationReturns) {
  const auto family = FamilyByName(source_->spec().family);
  ASSERT_TRUE(family.ok()) << family.status();
  const auto again = (*family)->from_config(json::parse(source_->config_json()), "config.json");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(ToJson(*again), ToJson(source_->spec()));
  const auto read = ArchitectureSpecFromJson(ToJson(source_->spec()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ToJson(*read), ToJson(source_->spec()));
}

TEST_P(FamilyTest, AnUnknownFieldIsRefusedByName) {
  json config = golden_.at("config");
  config["attention_sinks"] = 4;
  const auto family = FamilyByName(source_->spec().family);
  const auto spec = (*family)->from_config(config, "config.json");
  EXPECT_EQ(spec.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(spec.status().message().find("'attention_sinks'"), std::string::npos) << spec.status();
  config["attention_sinks"] = nullptr;
  EXPECT_TRUE((*family)->from_config(config, "config.json").ok());
}

// Calibration on a GPU (kCudaHalf), and the products of kCudaMixed, whatever the family.
TEST_P(FamilyTest, Bf16IsNearFullPrecision) {
  const auto length = static_cast<int64_t>(ids_.size());
  const auto cpu = Create();
  ASSERT_NE(cpu, nullptr);
  const GuidedStatistics expected = cpu->TokenWeights(ids_, 1, length, {}, nullptr).value();
  std::vector<Device> devices = {Device::kCpuHalf, Device::kCpuMixed};
  if (HasCuda()) devices.insert(devices.end(), {Device::kCudaHalf, Device::kCudaMixed});
  for (const Device device : devices) {
    const auto model = Create(device);
    ASSERT_NE(model, nullptr);
    const GuidedStatistics found = model->TokenWeights(ids_, 1, length, {}, nullptr).value();
    double worst = 0;
    for (size_t block = 0; block < found.blocks.size(); ++block) {
      for (size_t i = 0; i < found.blocks[block].layers.size(); ++i) {
        worst = std::max(
            worst, Difference(found.blocks[block].layers[i], expected.blocks[block].layers[i]));
      }
    }
    EXPECT_LT(worst, 0.08);  // a ReLU near zero opens or closes
    const bool scores = device == Device::kCpuMixed || device == Device::kCudaMixed;
    const double error = scores ? testing::GoldenError(golden_, Logits(model.get())) : 0;
    EXPECT_LT(error, 0.02);  // ten roundings of bf16: Mistral was .0104 off
    std::printf("%-14s bf16 %-6s token weights off by %.2g, logits by %.2g of their range\n",
                GetParam().c_str(), scores ? "mixed" : "half", worst, error);
  }
}

// GGUF files as the gguf package writes them, of the same kinds of models: norms that carry
// Gemma's 1, LLaMA's rows as they are interleaved there, Bloom's fused rows, LLaMA-3's factors.
class GgufFamilyTest : public ::testing::TestWithParam<std::string> {};

TEST_P(GgufFamilyTest, LogitsAreThoseOfTransformers) {
  const json& golden = testing::GoldenCase(testing::GoldenGgufs(), GetParam());
  const std::string path = absl::StrCat(std::filesystem::temp_directory_path().string(),
                                        "/gguf_family_", ::getpid(), "_", GetParam(), ".gguf");
  ASSERT_TRUE(testing::WriteGoldenGguf(golden, path).ok());
  const auto source = ModelSource::Open(path);
  std::filesystem::remove(path);  // it stays mapped
  ASSERT_TRUE(source.ok()) << source.status();
  auto model = ReferenceModel::Create(source->get(), 1, 0);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto ids = golden.at("ids").get<std::vector<int32_t>>();
  HiddenStates h = (*model)->Embed(ids, 1, static_cast<int64_t>(ids.size())).value();
  ASSERT_TRUE((*model)->RunBlocks(0, (*model)->spec().blocks, &h, nullptr).ok());
  std::vector<float> logits;
  ASSERT_TRUE((*model)->Logits(h, 0, &logits).ok());
  const double error = testing::GoldenError(golden, logits);
  EXPECT_LT(error, kBound);
  std::printf("%-14s gguf       largest error %.2g of the range of logits\n", GetParam().c_str(),
              error);
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyTest,
                         ::testing::ValuesIn(testing::GoldenNames(testing::GoldenFamilies())),
                         [](const auto& info) { return testing::GoldenTestName(info.param); });
INSTANTIATE_TEST_SUITE_P(Families, GgufFamilyTest,
                         ::testing::ValuesIn(testing::GoldenNames(testing::GoldenGgufs())),
                         [](const auto& info) { return testing::GoldenTestName(info.param); });

}  // namespace
}  // namespace shiftadd
