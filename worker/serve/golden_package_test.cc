// Every version must load the packages of the versions before it, and answer as they did.
#include "worker/serve/testing/golden_package.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/model/tokenizer.h"
#include "worker/serve/package_source.h"
#include "worker/serve/packed_model.h"

namespace shiftadd {
namespace {

using nlohmann::json;
using testing::kGoldenReference;
using Precision = PackedModelOptions::Precision;

const char kDirectory[] = SHIFTADD_SOURCE_DIR "/tests/golden/tiny_package";

class GoldenPackage : public ::testing::Test {
 protected:
  // A copy: opening a layout may write to it, and a checkout may be read-only.
  void SetUp() override {
    copy_ = std::filesystem::path(::testing::TempDir()) / "golden_package";
    std::filesystem::remove_all(copy_);
    std::filesystem::copy(kDirectory, copy_, std::filesystem::copy_options::recursive);
    PackageLocation location;
    location.reference = kGoldenReference;
    location.package_dir = copy_.string();
    auto package = ResolvePackage(location);
    ASSERT_TRUE(package.ok()) << package.status();
    package_ = *std::move(package);
    config_ = json::parse(package_.config_json);
    answers_ = json::parse(std::ifstream(copy_ / "answers.json"));
  }
  void TearDown() override { std::filesystem::remove_all(copy_); }

  // Error of the logits in the answers, as a fraction of their root mean square.
  double LogitError(PackedModelOptions options) {
    const auto model = PackedModel::Load(package_.config_json, package_.read, options);
    EXPECT_TRUE(model.ok()) << model.status();
    if (!model.ok()) return INFINITY;
    const auto ids = answers_.at("ids").get<std::vector<int32_t>>();
    const auto cache = (*model)->NewCache(static_cast<int64_t>(ids.size()));
    std::vector<float> logits;
    const absl::Status status = (*model)->Forward(ids, cache.get(), true, &logits);
    EXPECT_TRUE(status.ok()) << status;
    const int64_t stride = answers_.at("stride"), vocab = (*model)->spec().vocab;
    double error = 0, size = 0;
    for (size_t p = 0; p < ids.size(); ++p) {
      for (int64_t i = 0; i * stride < vocab; ++i) {
        const double want = answers_.at("logits").at(p).at(i);
        const double got = logits.at(p * vocab + i * stride);
        error += (got - want) * (got - want);
        size += want * want;
      }
    }
    return std::sqrt(error / size);
  }

  std::filesystem::path copy_;
  ResolvedPackage package_;
  json config_, answers_;
};

TEST_F(GoldenPackage, GivesItsLogitsOnEveryInstructionSet) {
  for (const kernels::Isa isa :
       {kernels::Isa::kPortable, kernels::Isa::kAvx2, kernels::Isa::kAvx512}) {
    if (isa > kernels::DetectIsa()) continue;
    PackedModelOptions options;
    options.threads = 2;
    options.isa = isa;
    options.precision = Precision::kA16;
    EXPECT_LT(LogitError(options), 1e-5) << kernels::IsaName(isa);
    options.precision = Precision::kA8;
    EXPECT_LT(LogitError(options), 5e-2) << kernels::IsaName(isa);
  }
}

TEST_F(GoldenPackage, GivesItsTokens) {
  const auto document = package_.read(config_.at("tokenizer").get<std::string>());
  ASSERT_TRUE(document.ok()) << document.status();
  const auto tokenizer = Tokenizer::FromJson(*document);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = answers_.at("ids").get<std::vector<int32_t>>();
  const std::string text = answers_.at("text");
  EXPECT_EQ((*tokenizer)->Encode(text, false, false), ids);
  EXPECT_EQ((*tokenizer)->Decode(ids, true), text);
}

// A package made anew must cover as much.
TEST_F(GoldenPackage, HoldsEveryWidthRotatedAndAnInt8Head) {
  EXPECT_EQ(config_.at("format"), json({{"major", 1}, {"minor", 0}}));
  std::set<int> widths;
  for (const json& layer : config_.at("layers")) {
    widths.insert(layer.at("bits").get<int>());
    const auto blob = package_.read(layer.at("digest").get<std::string>());
    ASSERT_TRUE(blob.ok()) << blob.status();
    EXPECT_NE(blob->find("wht128"), std::string::npos) << layer;
  }
  EXPECT_EQ(widths, (std::set<int>{2, 3, 4}));
  const auto head = package_.read(config_.at("head").get<std::string>());
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_NE(head->find("int8/group"), std::string::npos);
}

}  // namespace
}  // namespace shiftadd
