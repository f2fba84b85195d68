// The executor on a GPU against the one on the CPU and the architecture's definition.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "worker/serve/cuda/cuda_model.h"
#include "worker/serve/sampler.h"
#include "worker/serve/testing/executor_cases.h"

namespace shiftadd {
namespace {

using testing::AllLogits;
using testing::ExecutorCases;
using ::testing::HasSubstr;
using testing::LoadOnCpu;
using testing::MakeTinyPackage;
using testing::OneByOne;
using testing::ReferenceLogits;
using testing::RelativeError;
using testing::TinyPackage;
using testing::TinyPackageOptions;
using testing::Tokens;
using Precision = PackedModelOptions::Precision;

std::unique_ptr<PackedModel> LoadOrDie(const TinyPackage& package,
                                       const CudaModelOptions& options = {}) {
  auto model = LoadCudaModel(package.config_json(), package.Reader(), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// 16-bit activations: what is left is the cache in fp16. 8-bit activations: besides, a rounding
// that differs moves a digit; both executors are this far from the definition.
constexpr double kBound16 = 2e-3;
constexpr double kBound8 = 5e-2;

class CudaExecutor : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto device = DescribeCudaDevice();
    if (!device.ok()) GTEST_SKIP() << device.status();
  }
};

class CudaExecutorCases : public CudaExecutor, public ::testing::WithParamInterface<int> {};

TEST_P(CudaExecutorCases, AgreesWithTheCpu) {
  const TinyPackage package = MakeTinyPackage(ExecutorCases()[GetParam()].options);
  const auto tokens = Tokens(45, package.spec.vocab);
  const auto want = ReferenceLogits(package, tokens);
  for (const Precision precision : {Precision::kA16, Precision::kA8}) {
    const double bound = precision == Precision::kA16 ? kBound16 : kBound8;
    CudaModelOptions options;
    options.precision = precision;
    const auto gpu = LoadOrDie(package, options);
    const auto cpu = LoadOnCpu(package, precision);
    ASSERT_TRUE(gpu && cpu);
    const auto got = AllLogits(gpu.get(), tokens);
    EXPECT_LT(RelativeError(got, AllLogits(cpu.get(), tokens)), bound);
    EXPECT_LT(RelativeError(got, want), bound);
    EXPECT_LT(RelativeError(OneByOne(gpu.get(), tokens), want), bound);
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaExecutorCases, ::testing::Range(0, 8),
                         [](const auto& info) { return ExecutorCases()[info.param].name; });

// Long enough for several pages, splits and tiles.
TEST_F(CudaExecutor, PromptsAgreeWithTokenByToken) {
  TinyPackageOptions options;
  options.model.context = 2048;
  const TinyPackage package = MakeTinyPackage(options);
  CudaModelOptions cuda;
  cuda.precision = Precision::kA16;
  const auto model = LoadOrDie(package, cuda);
  ASSERT_TRUE(model);
  const auto tokens = Tokens(1300, package.spec.vocab);
  const auto whole = AllLogits(model.get(), tokens);
  EXPECT_LT(RelativeError(OneByOne(model.get(), tokens), whole), kBound16);
  const auto cpu = LoadOnCpu(package, Precision::kA16);
  EXPECT_LT(RelativeError(AllLogits(cpu.get(), tokens), whole), kBound16);
}

TEST_F(CudaExecutor, SameCallsGiveTheSameBits) {
  const TinyPackage package = MakeTinyPackage({});
  const auto model = LoadOrDie(package);
  ASSERT_TRUE(model);
  const auto tokens = Tokens(300, package.spec.vocab);
  EXPECT_EQ(AllLogits(model.get(), tokens), AllLogits(model.get(), tokens));
  EXPECT_EQ(OneByOne(model.get(), tokens), OneByOne(model.get(), tokens));
}

TEST_F(CudaExecutor, GraphsGiveTheBitsOfSingleLaunches) {
  const TinyPackage package = MakeTinyPackage({});
  CudaModelOptions plain;
  plain.graphs = false;
  const auto with = LoadOrDie(package), without = LoadOrDie(package, plain);
  ASSERT_TRUE(with && without);
  const auto tokens = Tokens(70, package.spec.vocab);
  EXPECT_EQ(OneByOne(with.get(), tokens), OneByOne(without.get(), tokens));
  for (const int batch : {2, 3, 5, 16}) {
    std::vector<std::vector<float>> results;
    for (PackedModel* model : {with.get(), without.get()}) {
      std::vector<std::unique_ptr<KvCache>> caches;
      for (int s = 0; s < batch; ++s) caches.push_back(model->NewCache(8));
      std::vector<float> all, logits;
      for (int step = 0; step < 4; ++step) {
        std::vector<BatchRow> rows;
        for (int s = 0; s < batch; ++s) rows.push_back({step * 7 + s, caches[s].get(), true});
        ASSERT_TRUE(model->ForwardBatch(rows, &logits).ok());
        all.insert(all.end(), logits.begin(), logits.end());
      }
      results.push_back(std::move(all));
    }
    EXPECT_EQ(results[0], results[1]) << batch;
  }
}

// Sequences of different lengths side by side, some with a piece of prompt, one row a sequence and
// many.
TEST_F(CudaExecutor, SequencesDoNotDisturbEachOther) {
  const TinyPackage package = MakeTinyPackage({});
  CudaModelOptions options;
  options.precision = Precision::kA16;
  const auto model = LoadOrDie(package, options);
  ASSERT_TRUE(model);
  const int64_t vocab = package.spec.vocab;
  const auto tokens = Tokens(200, vocab);
  const auto whole = AllLogits(model.get(), tokens);
  for (const size_t chunk : {size_t{1}, size_t{7}, size_t{64}}) {
    const auto cache = model->NewCache(300), other = model->NewCache(300);
    std::vector<float> got, logits;
    for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
      std::vector<BatchRow> rows = {{tokens[begin], other.get(), true}};
      const size_t end = std::min(begin + chunk, tokens.size());
      for (size_t i = begin; i < end; ++i) rows.push_back({tokens[i], cache.get(), true});
      ASSERT_TRUE(model->ForwardBatch(rows, &logits).ok());
      got.insert(got.end(), logits.begin() + vocab, logits.end());
    }
    EXPECT_LT(RelativeError(got, whole), kBound16) << chunk;
  }
}

TEST_F(CudaExecutor, BatchInvariantRowsHaveTheSameBitsInAnyCompany) {
  for (const bool rotated : {true, false}) {
    TinyPackageOptions package_options;
    package_options.rotated = rotated;
    const TinyPackage package = MakeTinyPackage(package_options);
    CudaModelOptions options;
    options.batch_invariant = true;
    const auto model = LoadOrDie(package, options);
    ASSERT_TRUE(model);
    const int64_t vocab = package.spec.vocab;
    const auto tokens = Tokens(300, vocab);
    const auto whole = AllLogits(model.get(), tokens);
    EXPECT_EQ(OneByOne(model.get(), tokens), whole);
    for (const size_t chunk : {size_t{1}, size_t{7}, size_t{64}}) {
      const auto cache = model->NewCache(300), other = model->NewCache(300);
      std::vector<float> got, logits;
      for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
        std::vector<BatchRow> rows = {{tokens[begin], other.get(), true}};
        const size_t end = std::min(begin + chunk, tokens.size());
        for (size_t i = begin; i < end; ++i) rows.push_back({tokens[i], cache.get(), true});
        ASSERT_TRUE(model->ForwardBatch(rows, &logits).ok());
        got.insert(got.end(), logits.begin() + vocab, logits.end());
      }
      EXPECT_EQ(got, whole) << chunk;
    }
  }
}

// Tokens are those that the host's sampler draws from the same logits, in a batch, in a prompt and
// beside rows that want logits.
TEST_F(CudaExecutor, SamplesWhatTheHostWould) {
  TinyPackageOptions package_options;
  package_options.model.vocab = 5000;  // several numbers a thread in every part
  const TinyPackage package = MakeTinyPackage(package_options);
  const auto model = LoadOrDie(package);
  ASSERT_TRUE(model && model->can_sample());
  const int64_t vocab = package.spec.vocab;
  const auto prompt = Tokens(20, vocab);
  constexpr double kTemperatures[] = {0, 0.3, 1, 5};
  std::set<int32_t> seen;
  for (int trial = 0; trial < 12; ++trial) {
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<BatchRow> rows;
    std::vector<int32_t> want;
    std::vector<float> logits;
    const int batch = trial % 5 + 1;
    for (int s = 0; s < batch; ++s) {
      caches.push_back(model->NewCache(64));
      for (int i = 0; i < (trial % 3 == 0 && s == 0 ? 20 : 1); ++i) {
        rows.push_back({prompt[(i + s + trial) % 20], caches[s].get(), false});
      }
      rows.back().logits = true;
    }
    ASSERT_TRUE(model->ForwardBatch(rows, &logits).ok());
    int at = 0;
    for (BatchRow& row : rows) {
      if (!row.logits) continue;
      SamplingParams params;
      params.temperature = kTemperatures[(at + trial) % 4];
      params.seed = 77 + trial;
      Sampler sampler(params, at);
      const auto token = sampler.Next(logits.data() + at * vocab, vocab);
      ASSERT_TRUE(token.ok());
      row.sample = trial % 2 == 0 || at % 2 == 0;
      row.temperature = static_cast<float>(params.temperature);
      row.uniform = CounterUniform(params.seed, at, 0);
      if (row.sample) want.push_back(*token), seen.insert(*token);
      ++at;
    }
    for (const auto& cache : caches) cache->Truncate(0);
    std::vector<float> rest;
    std::vector<int32_t> got;
    ASSERT_TRUE(model->ForwardSample(rows, &rest, &got).ok());
    EXPECT_EQ(got, want) << trial;
    ASSERT_EQ(rest.size(), (at - want.size()) * vocab);
    if (!rest.empty()) {
      EXPECT_TRUE(std::equal(rest.begin(), rest.begin() + vocab, logits.begin() + vocab));
    }
  }
  EXPECT_GT(seen.size(), 8u);
}

TEST_F(CudaExecutor, TruncatedCacheGoesOnFromThere) {
  const TinyPackage package = MakeTinyPackage({});
  const auto model = LoadOrDie(package);
  ASSERT_TRUE(model);
  const auto tokens = Tokens(100, package.spec.vocab);
  const int64_t idle = model->cache_pages();
  {
    const auto cache = model->NewCache(100);
    std::vector<float> first, second, ignored;
    ASSERT_TRUE(model->Forward(tokens, cache.get(), false, &ignored).ok());
    EXPECT_EQ(cache->length(), 100);
    EXPECT_EQ(model->cache_pages() - idle, 4);
    cache->Truncate(40);
    EXPECT_EQ(cache->length(), 40);
    EXPECT_EQ(model->cache_pages() - idle, 2);
    const std::vector<int32_t> rest(tokens.begin() + 40, tokens.end());
    ASSERT_TRUE(model->Forward(rest, cache.get(), false, &first).ok());
    cache->Truncate(40);
    const std::vector<int32_t> wrong(30, 5);
    ASSERT_TRUE(model->Forward(wrong, cache.get(), false, &ignored).ok());
    cache->Truncate(40);
    ASSERT_TRUE(model->Forward(rest, cache.get(), false, &second).ok());
    EXPECT_EQ(first, second);
  }
  EXPECT_EQ(model->cache_pages(), idle);
}

TEST_F(CudaExecutor, RefusesBadTokensFullCachesAndForeignOnes) {
  const TinyPackage package = MakeTinyPackage({});
  const auto model = LoadOrDie(package), stranger = LoadOrDie(package);
  ASSERT_TRUE(model && stranger);
  const auto cache = model->NewCache(3), foreign = stranger->NewCache(3);
  std::vector<float> logits;
  const auto vocab = static_cast<int32_t>(package.spec.vocab);
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
  EXPECT_EQ(model->ForwardBatch({{1, foreign.get(), true}}, &logits).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaExecutor, RefusesWhatDoesNotFit) {
  const TinyPackage package = MakeTinyPackage({});
  CudaModelOptions options;
  options.cache_tokens = int64_t{1} << 40;
  const auto model = LoadCudaModel(package.config_json(), package.Reader(), options);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("needs at least"));
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("free of"));
}

// Where there is no GPU, or no build for one, that is said.
TEST(CudaModelWithoutDevice, SaysWhatIsMissing) {
  if (DescribeCudaDevice().ok()) GTEST_SKIP() << "there is a device";
  const TinyPackage package = MakeTinyPackage({});
  const auto model = LoadCudaModel(package.config_json(), package.Reader(), {});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(model.status(), DescribeCudaDevice().status());
  EXPECT_FALSE(model.status().message().empty());
}

}  // namespace
}  // namespace shiftadd
