// The executor against Hugging Face transformers: tests/golden/smollm2_logits.json (README.md there
// says how it was made).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "nlohmann/json.hpp"
#include "worker/model/model_source.h"
#include "worker/reference/reference_model.h"

namespace shiftadd {
namespace {

std::string ModelPath() {
  if (const char* path = std::getenv("SHIFTADD_TEST_MODEL")) return path;
  const char* home = std::getenv("HOME");
  return std::string(home == nullptr ? "" : home) +
         "/.cache/shiftadd/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

class GoldenLogits : public ::testing::TestWithParam<Device> {};

TEST_P(GoldenLogits, SmolLm2AgreesToAThousandthOfTheRange) {
  const std::string golden = SHIFTADD_SOURCE_DIR "/tests/golden/smollm2_logits.json";
  if (!std::filesystem::exists(golden)) GTEST_SKIP() << "no " << golden;
  if (!std::filesystem::exists(ModelPath())) GTEST_SKIP() << "no model at " << ModelPath();
  const nlohmann::json expected = nlohmann::json::parse(std::ifstream(golden));
  auto source = ModelSource::Open(ModelPath());
  ASSERT_TRUE(source.ok()) << source.status();
  auto created = ReferenceModel::Create(source->get(), 1, 0, GetParam());
  if (created.status().code() == absl::StatusCode::kFailedPrecondition)
    GTEST_SKIP() << created.status();
  ASSERT_TRUE(created.ok()) << created.status();
  auto model = *std::move(created);
  const int64_t vocab = model->spec().vocab;
  int64_t compared = 0;
  for (const nlohmann::json& prompt : expected["prompts"]) {
    const auto ids = prompt["ids"].get<std::vector<int32_t>>();
    HiddenStates h = model->Embed(ids, 1, static_cast<int64_t>(ids.size())).value();
    ASSERT_TRUE(model->RunBlocks(0, model->spec().blocks, &h, nullptr).ok());
    std::vector<float> logits;
    ASSERT_TRUE(model->Logits(h, 0, &logits).ok());
    for (const nlohmann::json& at : prompt["positions"]) {
      const float* row = logits.data() + at["position"].get<int64_t>() * vocab;
      const double bound = 1e-3 * (at["max"].get<double>() - at["min"].get<double>());
      EXPECT_EQ(std::max_element(row, row + vocab) - row, at["argmax"].get<int64_t>());
      EXPECT_NEAR(*std::max_element(row, row + vocab), at["max"].get<double>(), bound);
      EXPECT_NEAR(*std::min_element(row, row + vocab), at["min"].get<double>(), bound);
      for (size_t i = 0; i < at["indices"].size(); ++i) {
        EXPECT_NEAR(row[at["indices"][i].get<int64_t>()], at["values"][i].get<double>(), bound);
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 500);
}

INSTANTIATE_TEST_SUITE_P(Devices, GoldenLogits,
                         ::testing::Values(Device::kCpu, Device::kCpuOperators, Device::kCuda));

}  // namespace
}  // namespace shiftadd
