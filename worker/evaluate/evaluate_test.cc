#include "worker/evaluate/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "worker/evaluate/divergence.h"
#include "worker/reference/testing/naive_model.h"
#include "worker/reference/testing/random_model.h"

namespace shiftadd {
namespace {

using ::testing::HasSubstr;
using testing::RandomModel;
using testing::RandomTokens;
using testing::TinySpec;

TEST(ScoreToken, ClosedForm) {
  const std::vector<float> p = {std::log(1.0f), std::log(2.0f), std::log(5.0f)};  // 1/8, 1/4, 5/8
  const std::vector<float> q = {7.0f + std::log(2.0f), 7.0f + std::log(1.0f),
                                7.0f + std::log(1.0f)};  // 1/2, 1/4, 1/4
  const TokenScores s = ScoreToken(p.data(), q.data(), 3, 2);
  EXPECT_NEAR(s.nll_full, -std::log(5.0 / 8), 1e-7);
  EXPECT_NEAR(s.nll, -std::log(1.0 / 4), 1e-6);
  EXPECT_NEAR(s.kl, std::log(1.0 / 4) / 8 + 0 + std::log(5.0 / 2) * 5 / 8, 1e-6);
  const TokenScores same = ScoreToken(p.data(), p.data(), 3, 0);
  EXPECT_EQ(same.kl, 0);
  EXPECT_EQ(same.nll, same.nll_full);
  EXPECT_NEAR(ScoreToken(p.data(), nullptr, 3, 1).nll_full, std::log(4.0), 1e-7);
}

TEST(ScoreToken, NotFiniteShows) {
  const std::vector<float> p = {0, 1}, bad = {0, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_FALSE(std::isfinite(ScoreToken(p.data(), bad.data(), 2, 0).kl));
  EXPECT_FALSE(std::isfinite(ScoreToken(bad.data(), p.data(), 2, 0).nll_full));
}

// Direct computation in float64 from the naive model.
WindowScores Direct(const WeightProvider& full, const std::vector<const WeightProvider*>& variants,
                    const std::vector<int32_t>& window) {
  const int64_t vocab = full.spec().vocab, rows = static_cast<int64_t>(window.size()) - 1;
  WindowScores out;
  out.tokens = rows;
  out.nll.assign(variants.size(), 0);
  out.kl.assign(variants.size(), 0);
  const std::vector<double> logits = testing::NaiveLogits(full, window);
  for (int64_t t = 0; t < rows; ++t) {
    out.nll_full -= testing::NaiveLogSoftmax(logits.data() + t * vocab, vocab)[window[t + 1]];
  }
  for (size_t v = 0; v < variants.size(); ++v) {
    const std::vector<double> other = testing::NaiveLogits(*variants[v], window);
    for (int64_t t = 0; t < rows; ++t) {
      const std::vector<double> p = testing::NaiveLogSoftmax(logits.data() + t * vocab, vocab);
      const std::vector<double> q = testing::NaiveLogSoftmax(other.data() + t * vocab, vocab);
      out.nll[v] -= q[window[t + 1]];
      for (int64_t i = 0; i < vocab; ++i) out.kl[v] += std::exp(p[i]) * (p[i] - q[i]);
    }
  }
  return out;
}

TEST(ScoreWindows, AgreesWithFloat64) {
  const RandomModel full(TinySpec(), 1), a(TinySpec(), 2);
  RandomModel near(TinySpec(), 1);
  for (float& w : near.tensors["blocks.1.mlp.down"]) w *= 1.05f;
  const std::vector<int32_t> tokens = RandomTokens(3, 3 * 20, 61);
  TaskControl control;
  const auto scores = ScoreWindows(full, {&near, &a}, tokens, 3, 20, 1, &control).value();
  ASSERT_EQ(scores.size(), 3u);
  EXPECT_NEAR(control.progress, 1.0, 1e-12);
  EXPECT_GT(control.progress_count, 0u);
  for (int w = 0; w < 3; ++w) {
    const WindowScores expected =
        Direct(full, {&near, &a}, {tokens.begin() + w * 20, tokens.begin() + (w + 1) * 20});
    EXPECT_EQ(scores[w].tokens, 19);
    EXPECT_NEAR(scores[w].nll_full, expected.nll_full, 1e-4);
    ASSERT_EQ(scores[w].kl.size(), 2u);
    for (int v = 0; v < 2; ++v) {
      EXPECT_NEAR(scores[w].nll[v], expected.nll[v], 1e-4);
      EXPECT_NEAR(scores[w].kl[v], expected.kl[v], 1e-4);
    }
    EXPECT_GT(scores[w].kl[1], 10 * scores[w].kl[0]);
    EXPECT_GT(scores[w].kl[0], 1e-4);
  }
}

TEST(ScoreWindows, NothingBetweenAModelAndItself) {
  const RandomModel full(TinySpec(), 4);
  const auto scores =
      ScoreWindows(full, {&full}, RandomTokens(5, 2 * 9, 61), 2, 9, 2, nullptr).value();
  for (const WindowScores& s : scores) {
    EXPECT_EQ(s.kl[0], 0);
    EXPECT_EQ(s.nll[0], s.nll_full);
    EXPECT_GT(s.nll_full, 0);
  }
}

TEST(ScoreWindows, SameNumbersForAnyThreadsAndSharding) {
  const RandomModel full(TinySpec(), 6), other(TinySpec(), 7);
  const int64_t length = ReferenceModel::kLogitsChunk + 1;  // the last chunk predicts nothing
  const std::vector<int32_t> tokens = RandomTokens(8, 4 * length, 61);
  const auto one = ScoreWindows(full, {&other}, tokens, 4, length, 1, nullptr).value();
  const auto three = ScoreWindows(full, {&other}, tokens, 4, length, 3, nullptr).value();
  const std::vector<int32_t> last(tokens.begin() + 3 * length, tokens.end());
  const auto alone = ScoreWindows(full, {&other}, last, 1, length, 1, nullptr).value();
  for (int w = 0; w < 4; ++w) {
    EXPECT_EQ(one[w].nll_full, three[w].nll_full);
    EXPECT_EQ(one[w].kl, three[w].kl);
  }
  EXPECT_EQ(alone[0].kl, one[3].kl);
  EXPECT_EQ(alone[0].nll_full,
            ScoreWindows(full, {}, last, 1, length, 1, nullptr).value()[0].nll_full);
}

TEST(ScoreWindows, RefusesBadInput) {
  const RandomModel full(TinySpec(), 9);
  ArchitectureSpec wider = TinySpec();
  wider.vocab = 62;
  const RandomModel other(wider, 9);
  EXPECT_THAT(ScoreWindows(full, {&other}, {1, 2}, 1, 2, 1, nullptr).status().ToString(),
              HasSubstr("variant 0 has a vocabulary of 62"));
  EXPECT_THAT(ScoreWindows(full, {}, {1}, 1, 1, 1, nullptr).status().ToString(),
              HasSubstr("windows of 1"));
  EXPECT_THAT(ScoreWindows(full, {}, {1, 99}, 1, 2, 1, nullptr).status().ToString(),
              HasSubstr("is 99"));
  RandomModel broken(TinySpec(), 9);
  broken.tensors["final_norm"][5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(ScoreWindows(full, {&broken}, {1, 2}, 1, 2, 1, nullptr).status().ToString(),
              HasSubstr("not finite"));
}

// Cancels itself when a given tensor is read.
class CancellingModel : public RandomModel {
 public:
  CancellingModel(std::string at, TaskControl* control)
      : RandomModel(TinySpec(), 10), at_(std::move(at)), control_(control) {}
  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override {
    if (name == at_) control_->cancelled = true;
    return RandomModel::Read(name);
  }

 private:
  std::string at_;
  TaskControl* control_;
};

TEST(ScoreWindows, StopsWhereverItIsCancelled) {
  const std::vector<int32_t> tokens = RandomTokens(11, 4 * 30, 61);
  const RandomModel plain(TinySpec(), 10);
  for (const char* at : {"embed", "blocks.1.mlp.down", "head"}) {
    for (bool in_variant : {false, true}) {
      TaskControl control;
      const CancellingModel cancelling(at, &control);
      const WeightProvider& full =
          in_variant ? static_cast<const WeightProvider&>(plain) : cancelling;
      const WeightProvider& variant =
          in_variant ? static_cast<const WeightProvider&>(cancelling) : plain;
      EXPECT_EQ(ScoreWindows(full, {&variant}, tokens, 4, 30, 2, &control).status().code(),
                absl::StatusCode::kCancelled)
          << at << (in_variant ? " of the variant" : " of the full model");
      EXPECT_LT(control.progress, 1.0);
    }
  }
}

}  // namespace
}  // namespace shiftadd
