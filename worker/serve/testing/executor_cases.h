// What the tests of both executors have in common.
#ifndef SHIFTADD_WORKER_SERVE_TESTING_EXECUTOR_CASES_H_
#define SHIFTADD_WORKER_SERVE_TESTING_EXECUTOR_CASES_H_

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "worker/serve/packed_model.h"
#include "worker/serve/testing/tiny_package.h"

namespace shiftadd::testing {

inline std::vector<int32_t> Tokens(int count, int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>((i * 37 + i * i * 5 + 3) % vocab));
  }
  return tokens;
}

inline std::unique_ptr<PackedModel> LoadOnCpu(const TinyPackage& package,
                                              PackedModelOptions::Precision precision,
                                              int threads = 2) {
  PackedModelOptions options;
  options.threads = threads;
  options.precision = precision;
  auto model = PackedModel::Load(package.config_json(), package.Reader(), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

inline std::vector<float> AllLogits(PackedModel* model, const std::vector<int32_t>& tokens) {
  const auto cache = model->NewCache(static_cast<int64_t>(tokens.size()));
  std::vector<float> logits;
  const absl::Status status = model->Forward(tokens, cache.get(), true, &logits);
  EXPECT_TRUE(status.ok()) << status;
  return logits;
}

inline std::vector<float> OneByOne(PackedModel* model, const std::vector<int32_t>& tokens) {
  const auto cache = model->NewCache(static_cast<int64_t>(tokens.size()));
  std::vector<float> all, logits;
  for (const int32_t token : tokens) {
    const absl::Status status = model->Forward({token}, cache.get(), true, &logits);
    EXPECT_TRUE(status.ok()) << status;
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

// Root of the mean squared difference, as a fraction of the reference's root mean square.
template <typename T>
double RelativeError(const std::vector<float>& got, const std::vector<T>& want) {
  EXPECT_EQ(got.size(), want.size());
  if (got.size() != want.size()) return std::numeric_limits<double>::infinity();
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = got[i] - want[i];
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    error += difference * difference;
    size += static_cast<double>(want[i]) * want[i];
  }
  return std::sqrt(error / size);
}

// A tiny package whose shapes or encodings differ from the others'.
struct ExecutorCase {
  const char* name;
  TinyPackageOptions options;
};

inline std::vector<ExecutorCase> ExecutorCases() {
  std::vector<ExecutorCase> cases(8);
  cases[0].name = "Rotated";
  cases[1].name = "FreeScalesUnrotatedWithOffsets";
  cases[1].options.free_scales = true;
  cases[1].options.zeta = true;
  cases[1].options.rotated = false;
  cases[2].name = "ShiftWithOffsets";
  cases[2].options.zeta = true;
  cases[3].name = "BiasesUntiedRawHead";
  cases[3].options.model.attention_bias = true;
  cases[3].options.model.mlp_bias = true;
  cases[3].options.model.tied = false;
  cases[3].options.raw_head = true;
  cases[4].name = "SkippedLayersUntied";
  cases[4].options.bits = {0, 4, 3, 0, 2};
  cases[4].options.model.tied = false;
  cases[5].name = "TailGroupsOddHeads";
  cases[5].options.model.hidden = 192;
  cases[5].options.model.heads = 6;
  cases[5].options.model.kv_heads = 2;
  cases[5].options.model.intermediate = 224;
  cases[5].options.model.rope_scaling = RopeScaling::kLlama3;
  cases[6].name = "SmallGroupsNarrowHeads";
  cases[6].options.group = 32;
  cases[6].options.bits = {1, 5, 8};
  cases[6].options.model.heads = 8;
  cases[6].options.model.kv_heads = 1;
  cases[6].options.model.head_dim = 24;
  cases[7].name = "ManyQueriesWideHeads";
  cases[7].options.model.heads = 10;
  cases[7].options.model.kv_heads = 1;
  cases[7].options.model.head_dim = 128;
  return cases;
}

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_SERVE_TESTING_EXECUTOR_CASES_H_
