// Prompts that begin alike share pages of the cache: that nothing changes by it but what is
// computed, on whichever executor testing/prefix_backend.h gives.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "worker/model/model_source.h"
#include "worker/model/testing/golden_family.h"
#include "worker/serve/engine.h"
#include "worker/serve/testing/engine_requests.h"
#include "worker/serve/testing/executor_cases.h"
#include "worker/serve/testing/prefix_backend.h"

namespace shiftadd {
namespace {

using testing::Collect;
using testing::Collected;
using testing::Computed;
using testing::LoadPrefixBackend;
using testing::MakeTinyPackage;
using testing::Params;
using testing::RelativeError;
using testing::TinyPackage;
using testing::TinyPackageOptions;
using testing::Tokens;

// Between kernels that add in different orders, keys and values in fp16.
constexpr double kBound = 2e-3;

std::vector<int32_t> From(const std::vector<int32_t>& tokens, int64_t first) {
  return {tokens.begin() + first, tokens.end()};
}

class PrefixReuse : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string why = testing::NoPrefixBackend();
    if (!why.empty()) GTEST_SKIP() << why;
  }
};

// A tiny package served by an engine. What its caches hold is given back at the end.
class Served {
 public:
  explicit Served(const EngineOptions& options, const TinyPackageOptions& package = {})
      : package_(MakeTinyPackage(package)),
        tokenizer_(*Tokenizer::FromJson(package_.tokenizer_json)),
        model_(LoadPrefixBackend(package_, /*fixed=*/true)),
        engine_(std::make_unique<Engine>(model_.get(), tokenizer_.get(), options, nullptr)) {}
  ~Served() {
    engine_.reset();
    EXPECT_EQ(model_->cache_pages(), 0);
  }

  Engine* engine() { return engine_.get(); }
  Collected Run(const std::vector<GenerateParams>& request) {
    return Collect(engine_->Submit(request)->get());
  }
  // What is in use a moment after the last answer.
  void ExpectPages(int64_t pages) {
    for (int i = 0; i < 2000 && engine_->Stats().pages_used != pages; ++i) {
      absl::SleepFor(absl::Milliseconds(5));
    }
    EXPECT_EQ(engine_->Stats().pages_used, pages);
  }

 private:
  const TinyPackage package_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::unique_ptr<PackedModel> model_;
  std::unique_ptr<Engine> engine_;
};

class PrefixReuseFamily : public PrefixReuse, public ::testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    PrefixReuse::SetUp();
    if (IsSkipped()) return;
    const std::string directory = absl::StrCat(std::filesystem::temp_directory_path().string(),
                                               "/prefix_family_", ::getpid(), "_", GetParam());
    const auto& golden = testing::GoldenCase(testing::GoldenFamilies(), GetParam());
    ASSERT_TRUE(testing::WriteGoldenFamily(golden, directory).ok());
    auto source = ModelSource::Open(directory);
    ASSERT_TRUE(source.ok()) << source.status();
    package_ = testing::MakeRawPackage(**source);
    std::filesystem::remove_all(directory);
  }

  TinyPackage package_;
};

// 100 tokens are four pages and, where a family has windows, many of them.
TEST_P(PrefixReuseFamily, LogitsAreThoseOfTheWholePrompt) {
  for (const bool fixed : {true, false}) {
    const auto model = LoadPrefixBackend(package_, fixed);
    ASSERT_NE(model, nullptr);
    const int64_t vocab = model->spec().vocab;
    const auto tokens = Tokens(100, vocab);
    const auto first = model->NewCache(100);
    std::vector<float> whole, got;
    ASSERT_TRUE(model->Forward(tokens, first.get(), true, &whole).ok());
    for (const int64_t shared : {32, 64, 96}) {
      const auto second = model->NewCache(100);
      ASSERT_EQ(second->SharePrefix(*first, std::min<int64_t>(shared + 31, 99)), shared);
      ASSERT_TRUE(model->Forward(From(tokens, shared), second.get(), true, &got).ok());
      const std::vector<float> want(whole.begin() + shared * vocab, whole.end());
      if (fixed) {
        EXPECT_EQ(got, want) << shared;
      } else {
        EXPECT_LT(RelativeError(got, want), kBound) << shared;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PrefixReuseFamily,
                         ::testing::ValuesIn(testing::GoldenNames(testing::GoldenFamilies())),
                         [](const auto& info) { return testing::GoldenTestName(info.param); });

TEST_F(PrefixReuse, SharedPagesAreCopiedBeforeTheyAreWritten) {
  const TinyPackage package = MakeTinyPackage({});
  const auto model = LoadPrefixBackend(package, true);
  ASSERT_NE(model, nullptr);
  const auto tokens = Tokens(100, package.spec.vocab);
  std::vector<float> expected, got, changed;
  const auto first = model->NewCache(120);
  ASSERT_TRUE(model->Forward(tokens, first.get(), false, &expected).ok());
  const auto second = model->NewCache(120);
  EXPECT_EQ(second->SharePrefix(*first, 99), 96);
  EXPECT_EQ(second->length(), 96);
  EXPECT_EQ(model->cache_pages(), 4);  // three of them are both's
  ASSERT_TRUE(model->Forward(From(tokens, 96), second.get(), false, &got).ok());
  EXPECT_EQ(got, expected);
  EXPECT_EQ(model->cache_pages(), 5);
  // Writing into what was shared leaves the other cache alone.
  second->Truncate(70);
  ASSERT_TRUE(model->Forward(std::vector<int32_t>(30, 5), second.get(), false, &changed).ok());
  EXPECT_EQ(model->cache_pages(), 6);  // two of them are both's
  first->Truncate(90);
  ASSERT_TRUE(model->Forward(From(tokens, 90), first.get(), false, &got).ok());
  EXPECT_EQ(got, expected);
  // And what stood in the page before is there in the copy.
  const auto plain = model->NewCache(120);
  std::vector<int32_t> other(tokens.begin(), tokens.begin() + 70);
  other.insert(other.end(), 30, 5);
  ASSERT_TRUE(model->Forward(other, plain.get(), false, &expected).ok());
  EXPECT_EQ(changed, expected);
}

TEST_F(PrefixReuse, WhatIsSharedEndsWithTheLastThatHoldsIt) {
  const TinyPackage package = MakeTinyPackage({});
  const auto model = LoadPrefixBackend(package, true), stranger = LoadPrefixBackend(package, true);
  ASSERT_TRUE(model && stranger);
  const auto tokens = Tokens(100, package.spec.vocab);
  std::vector<float> logits, expected;
  auto first = model->NewCache(120), second = model->NewCache(50);
  ASSERT_TRUE(model->Forward(tokens, first.get(), false, &logits).ok());
  EXPECT_EQ(stranger->NewCache(120)->SharePrefix(*first, 99), 0);
  EXPECT_EQ(second->SharePrefix(*first, 99), 32);  // no more than it may hold
  EXPECT_EQ(second->SharePrefix(*first, 20), 32);  // not empty: nothing changes
  EXPECT_EQ(model->cache_pages(), 4);
  first.reset();
  EXPECT_EQ(model->cache_pages(), 1);
  // Others take the pages that came back; the one that stayed is as it was.
  const auto third = model->NewCache(120);
  ASSERT_TRUE(model->Forward(std::vector<int32_t>(110, 7), third.get(), false, &logits).ok());
  const std::vector<int32_t> rest(tokens.begin() + 32, tokens.begin() + 50);
  ASSERT_TRUE(model->Forward(rest, second.get(), false, &logits).ok());
  const auto plain = model->NewCache(50);
  ASSERT_TRUE(
      model->Forward({tokens.begin(), tokens.begin() + 50}, plain.get(), false, &expected).ok());
  EXPECT_EQ(logits, expected);
  EXPECT_EQ(model->cache_pages(), 2 + 4 + 2);
  second.reset();
  EXPECT_EQ(model->cache_pages(), 4 + 2);
}

TEST_F(PrefixReuse, ASharedPromptIsComputedOnce) {
  EngineOptions options = {512, 8, 2};
  Served server(options);
  GenerateParams params = Params(150, 12);
  params.sampling.temperature = 1;
  params.sampling.seed = 3;
  Collected first, again, longer, without;
  EXPECT_EQ(Computed(server.engine(), {params}, &first), 150 + 11);
  // 4 whole pages of 32 tokens of the prompt's 150.
  EXPECT_EQ(Computed(server.engine(), {params}, &again), 150 - 128 + 11);
  EXPECT_EQ(again.cached[0], 128);
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(again.text, first.text);
  // The conversation goes on: what was generated counts too.
  params.prompt.insert(params.prompt.end(), first.tokens[0].begin(), first.tokens[0].end());
  params.prompt.push_back(9);
  EXPECT_EQ(Computed(server.engine(), {params}, &longer), 163 - 160 + 11);
  EXPECT_EQ(server.engine()->Stats().reused_tokens, 128 + 160);

  options.reuse_prefixes = false;
  Served other(options);
  EXPECT_EQ(Computed(other.engine(), {params}, &without), 163 + 11);
  EXPECT_EQ(longer.tokens, without.tokens);
  EXPECT_EQ(without.cached[0], 0);
  other.ExpectPages(0);
  // Another first token: nothing is shared.
  params.prompt[0] = 200;
  Collected different;
  EXPECT_EQ(Computed(server.engine(), {params}, &different), 163 + 11);
  EXPECT_NE(different.tokens, without.tokens);
  server.ExpectPages(5 + 5);  // whole pages of either conversation
}

TEST_F(PrefixReuse, ChoicesOfOnePromptShareIt) {
  EngineOptions options = {256, 8, 8};
  Served server(options);
  std::vector<GenerateParams> request(5, Params(100, 6));
  for (size_t i = 0; i < request.size(); ++i) {
    request[i].sampling.temperature = 1;
    request[i].stream = i;
  }
  Collected together;
  EXPECT_EQ(Computed(server.engine(), request, &together), 5 * 5 + 100 + 4 * (100 - 96));
  options.reuse_prefixes = false;
  Served other(options);
  for (size_t i = 0; i < request.size(); ++i) {
    EXPECT_EQ(other.Run({request[i]}).tokens[0], together.tokens[i]) << i;
  }
}

TEST_F(PrefixReuse, OwedLogprobsAreComputedNotReused) {
  Served server({256, 8, 2});
  GenerateParams params = Params(90, 2);
  server.Run({params});
  params.top_logprobs = 1;
  params.prompt_logprobs = true;
  const Collected out = server.Run({params});
  EXPECT_EQ(out.cached[0], 0);
  EXPECT_EQ(out.logprobs[0], 92u);
}

TEST_F(PrefixReuse, KeptPrefixesGiveWay) {
  EngineOptions options = {256, 8, 2};
  options.cache_pages = 8;
  Served server(options);
  const GenerateParams one = Params(150, 12);
  GenerateParams two = one;
  two.prompt[0] = 200;
  Collected first, again, other;
  Computed(server.engine(), {one}, &first);
  server.ExpectPages(5);
  EXPECT_EQ(Computed(server.engine(), {two}, &other), 150 + 11);
  server.ExpectPages(5);  // the first one's went
  EXPECT_EQ(Computed(server.engine(), {one}, &again), 150 + 11);
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(server.engine()->Stats().reused_tokens, 0);
  EXPECT_EQ(Computed(server.engine(), {one}, &again), 150 - 128 + 11);
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(server.engine()->Stats().preemptions, 0);
}

// Six sequences of up to 5 pages each in 8 pages: they take turns, none fails, no text changes.
TEST_F(PrefixReuse, ASmallCacheDelaysButNeverFails) {
  std::vector<GenerateParams> request;
  for (int i = 0; i < 6; ++i) {
    request.push_back(Params(20 + 13 * i, 60));
    request.back().prompt[0] = 3 + i;
    request.back().sampling.temperature = 1;
    request.back().sampling.seed = static_cast<uint64_t>(i);
    if (i % 2 == 0) {
      request.back().top_logprobs = 0;
      request.back().prompt_logprobs = true;
    }
  }
  EngineOptions options = {256, 8, 6};
  Served wide(options);
  options.cache_pages = 8;
  Served narrow(options);
  const auto expected = wide.Run(request);
  EXPECT_EQ(wide.engine()->Stats().preemptions, 0);
  const auto generation = *narrow.engine()->Submit(request);
  std::vector<size_t> logprobs(request.size());
  std::vector<std::vector<int32_t>> tokens(request.size());
  for (size_t left = request.size(); left > 0;) {
    const auto event = generation->Next(absl::Seconds(60));
    ASSERT_TRUE(event.has_value());
    ASSERT_TRUE(event->status.ok()) << event->status;
    EXPECT_LE(narrow.engine()->Stats().pages_used, 8);
    logprobs[event->index] += event->logprobs.size();
    for (const int32_t token : event->tokens) tokens[event->index].push_back(token);
    if (event->last()) --left;
  }
  EXPECT_EQ(tokens, expected.tokens);
  for (size_t i = 0; i < request.size(); ++i) {
    EXPECT_EQ(logprobs[i], i % 2 == 0 ? request[i].prompt.size() + 60 : 0) << i;
  }
  EXPECT_GT(narrow.engine()->Stats().preemptions, 0);
}

// One that shares its first pages with a running sequence and has another wait for the rest of its
// prompt is cancelled while that is computed.
TEST_F(PrefixReuse, APromptCancelledHalfWayLeavesTheOthersAlone) {
  TinyPackageOptions package;
  package.model.context = 4096;
  EngineOptions options = {4096, 8, 3};
  const GenerateParams lasting = Params(70, 300);
  GenerateParams doomed = Params(3500, 500);
  for (size_t i = 64; i < doomed.prompt.size(); ++i) doomed.prompt[i] = 3 + (i * 11) % 240;
  GenerateParams waiting = doomed;
  waiting.max_tokens = 4;
  Served server(options, package);
  Collected first;
  Computed(server.engine(), {Params(70, 2)}, &first);
  const auto runs = *server.engine()->Submit({lasting});
  const auto ends = *server.engine()->Submit({doomed});
  const auto waits = *server.engine()->Submit({waiting});
  while (server.engine()->Stats().pages_used < 20) absl::SleepFor(absl::Microseconds(50));
  ends->Cancel();
  EXPECT_TRUE(absl::IsCancelled(Collect(ends.get()).status[0]));
  const Collected lasted = Collect(runs.get()), waited = Collect(waits.get());
  EXPECT_EQ(lasted.cached[0], 64);
  EXPECT_GE(waited.cached[0], 64);
  // Whole pages of what has ended by itself, the first two of them both's.
  server.ExpectPages((70 + 299) / 32 + (3500 + 3) / 32 - 2);

  options.reuse_prefixes = false;
  Served other(options, package);
  EXPECT_EQ(other.Run({lasting}).tokens, lasted.tokens);
  EXPECT_EQ(other.Run({waiting}).tokens, waited.tokens);
  other.ExpectPages(0);
}

}  // namespace
}  // namespace shiftadd
