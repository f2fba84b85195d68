#include "worker/evaluate/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <thread>

#include "worker/reference/divergence.h"
#include "worker/reference/testing/naive_model.h"
#include "worker/reference/testing/random_model.h"

namespace shiftadd {
namespace {

using ::testing::HasSubstr;
using testing::RandomModel;
using testing::RandomTokens;
using testing::TinySpec;

TEST(TokenReference, ClosedForm) {
  const std::vector<float> p = {std::log(1.0f), std::log(2.0f), std::log(5.0f)};  // 1/8, 1/4, 5/8
  const std::vector<float> q = {7.0f + std::log(2.0f), 7.0f + std::log(1.0f),
                                7.0f + std::log(1.0f)};  // 1/2, 1/4, 1/4
  const TokenReference full(p.data(), 3);
  const TokenScores s = full.Score(q.data(), 2);
  EXPECT_NEAR(s.nll_full, -std::log(5.0 / 8), 1e-7);
  EXPECT_NEAR(s.nll, -std::log(1.0 / 4), 1e-6);
  EXPECT_NEAR(s.kl, std::log(1.0 / 4) / 8 + 0 + std::log(5.0 / 2) * 5 / 8, 1e-6);
  const TokenScores same = full.Score(p.data(), 0);
  EXPECT_EQ(same.kl, 0);
  EXPECT_EQ(same.nll, same.nll_full);
  EXPECT_NEAR(full.Nll(1), std::log(4.0), 1e-7);
}

TEST(TokenReference, NotFiniteShows) {
  const std::vector<float> p = {0, 1}, bad = {0, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_FALSE(std::isfinite(TokenReference(p.data(), 2).Score(bad.data(), 0).kl));
  EXPECT_FALSE(std::isfinite(TokenReference(bad.data(), 2).Nll(0)));
}

absl::StatusOr<std::vector<WindowScores>> Scores(const WeightProvider& full,
                                                 const std::vector<const WeightProvider*>& variants,
                                                 const std::vector<int32_t>& tokens, int64_t count,
                                                 int64_t length, int threads, TaskControl* control,
                                                 Device device = Device::kCpu) {
  auto model = ReferenceModel::Create(&full, threads, 0, device);
  if (!model.ok()) return model.status();
  VariantOptions options;
  options.threads = threads;
  options.device = device;
  std::vector<std::unique_ptr<VariantModel>> models;
  std::vector<VariantModel*> pointers;
  for (const WeightProvider* weights : variants) {
    auto variant = VariantModel::Create(weights, options);
    if (!variant.ok()) return variant.status();
    models.push_back(*std::move(variant));
    pointers.push_back(models.back().get());
  }
  return ScoreWindows(model->get(), pointers, tokens, count, length, threads, control);
}

// A copy with every matrix of its blocks a little off: what quantizing does.
std::unique_ptr<RandomModel> Disturbed(const RandomModel& model, double part) {
  auto out = std::make_unique<RandomModel>(model.spec(), 1);
  out->tensors = model.tensors;
  std::mt19937_64 random(9);
  std::normal_distribution<double> normal;
  for (auto& [name, values] : out->tensors) {
    if (name.find(".attn.") == std::string::npos && name.find(".mlp.") == std::string::npos)
      continue;
    for (float& v : values) v *= static_cast<float>(1 + part * normal(random));
  }
  return out;
}

// Products in bf16 change what is measured by less than what tells one width from the next: of
// models off by 5 to 20 % (about what 4 to 2 planes leave) KL moves by less than 2 %, and the
// perplexity of the full model by less than 0.2 %.
TEST(Mixed, ScoresAreThoseOfFullPrecisionToTwoPercent) {
  ArchitectureSpec spec = TinySpec();
  spec.blocks = 6;
  const RandomModel full(spec, 1);
  constexpr int64_t kCount = 4, kLength = 200;
  const std::vector<int32_t> tokens = RandomTokens(2, kCount * kLength, spec.vocab);
  std::vector<std::unique_ptr<RandomModel>> variants;
  for (const double part : {0.05, 0.1, 0.2}) variants.push_back(Disturbed(full, part));
  const std::vector<const WeightProvider*> pointers = {variants[0].get(), variants[1].get(),
                                                       variants[2].get()};
  const auto of = [&](Device device) {
    const auto scores = Scores(full, pointers, tokens, kCount, kLength, 1, nullptr, device);
    EXPECT_TRUE(scores.ok()) << scores.status();
    WindowScores sum;
    sum.nll.assign(3, 0);
    sum.kl.assign(3, 0);
    for (const WindowScores& score : *scores) {
      sum.tokens += score.tokens;
      sum.nll_full += score.nll_full;
      for (int v : {0, 1, 2}) sum.nll[v] += score.nll[v], sum.kl[v] += score.kl[v];
    }
    return sum;
  };
  const WindowScores expected = of(Device::kCpu);
  std::vector<Device> devices = {Device::kCpuMixed};
  if (ReferenceModel::Create(&full, 1, 0, Device::kCudaMixed).ok())
    devices.push_back(Device::kCudaMixed);
  for (const Device device : devices) {
    const WindowScores found = of(device);
    EXPECT_NEAR((found.nll_full - expected.nll_full) / static_cast<double>(expected.tokens), 0,
                2e-3);
    for (int v : {0, 1, 2}) {
      EXPECT_NEAR(found.kl[v] / expected.kl[v], 1, 0.02) << v;
      std::printf("variant %d: KL %.5f a token, in bf16 %.4f times that; nll %.5f, in bf16 %+.5f\n",
                  v, expected.kl[v] / static_cast<double>(expected.tokens),
                  found.kl[v] / expected.kl[v],
                  expected.nll[v] / static_cast<double>(expected.tokens),
                  (found.nll[v] - expected.nll[v]) / static_cast<double>(expected.tokens));
    }
  }
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
      double kl = 0;
      for (int64_t i = 0; i < vocab; ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
      out.kl[v] += kl;
      if (v > 0) continue;
      out.token_kl.push_back(static_cast<float>(kl));
      out.top1_agreements += std::max_element(p.begin(), p.end()) - p.begin() ==
                             std::max_element(q.begin(), q.end()) - q.begin();
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
  const auto scores = Scores(full, {&near, &a}, tokens, 3, 20, 1, &control).value();
  ASSERT_EQ(scores.size(), 3u);
  EXPECT_NEAR(control.progress, 1.0, 1e-12);
  EXPECT_GT(control.progress_count, 0u);
  int64_t agreements = 0;
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
    ASSERT_EQ(scores[w].token_kl.size(), 19u);
    for (int t = 0; t < 19; ++t) EXPECT_NEAR(scores[w].token_kl[t], expected.token_kl[t], 1e-5);
    EXPECT_EQ(scores[w].top1_agreements, expected.top1_agreements);
    agreements += expected.top1_agreements;
    EXPECT_GT(scores[w].kl[1], 10 * scores[w].kl[0]);
    EXPECT_GT(scores[w].kl[0], 1e-4);
  }
  EXPECT_LT(agreements, 3 * 19);  // else the counts say nothing
}

TEST(ScoreWindows, NothingBetweenAModelAndItself) {
  const RandomModel full(TinySpec(), 4);
  const auto scores = Scores(full, {&full}, RandomTokens(5, 2 * 9, 61), 2, 9, 2, nullptr).value();
  for (const WindowScores& s : scores) {
    EXPECT_EQ(s.kl[0], 0);
    EXPECT_EQ(s.nll[0], s.nll_full);
    EXPECT_GT(s.nll_full, 0);
    EXPECT_EQ(s.top1_agreements, 8);
  }
}

TEST(ScoreWindows, SameNumbersForAnyThreadsAndSharding) {
  const RandomModel full(TinySpec(), 6), other(TinySpec(), 7);
  const int64_t length = ReferenceModel::kLogitsChunk + 1;  // the last chunk predicts nothing
  const std::vector<int32_t> tokens = RandomTokens(8, 4 * length, 61);
  const auto one = Scores(full, {&other}, tokens, 4, length, 1, nullptr).value();
  const auto three = Scores(full, {&other}, tokens, 4, length, 3, nullptr).value();
  const std::vector<int32_t> last(tokens.begin() + 3 * length, tokens.end());
  const auto alone = Scores(full, {&other}, last, 1, length, 1, nullptr).value();
  for (int w = 0; w < 4; ++w) {
    EXPECT_EQ(one[w].nll_full, three[w].nll_full);
    EXPECT_EQ(one[w].kl, three[w].kl);
  }
  EXPECT_EQ(alone[0].kl, one[3].kl);
  EXPECT_EQ(alone[0].nll_full, Scores(full, {}, last, 1, length, 1, nullptr).value()[0].nll_full);
}

TEST(ScoreWindows, RefusesBadInput) {
  const RandomModel full(TinySpec(), 9);
  ArchitectureSpec wider = TinySpec();
  wider.vocab = 62;
  const RandomModel other(wider, 9);
  EXPECT_THAT(Scores(full, {&other}, {1, 2}, 1, 2, 1, nullptr).status().ToString(),
              HasSubstr("variant 0 has a vocabulary of 62"));
  EXPECT_THAT(Scores(full, {}, {1}, 1, 1, 1, nullptr).status().ToString(),
              HasSubstr("windows of 1"));
  EXPECT_THAT(Scores(full, {}, {1, 99}, 1, 2, 1, nullptr).status().ToString(), HasSubstr("is 99"));
  RandomModel broken(TinySpec(), 9);
  broken.tensors["final_norm"][5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(Scores(full, {&broken}, {1, 2}, 1, 2, 1, nullptr).status().ToString(),
              HasSubstr("not finite"));
}

TEST(ScoreWindows, TheOperatorsOfADeviceGiveTheSameScores) {
  const RandomModel full(TinySpec(), 1), a(TinySpec(), 2), b(TinySpec(), 3);
  const int64_t length = 600;  // two chunks of logits
  const std::vector<int32_t> tokens = RandomTokens(3, 2 * length, 61);
  const auto expected = Scores(full, {&a, &b}, tokens, 2, length, 1, nullptr).value();
  const auto found =
      Scores(full, {&a, &b}, tokens, 2, length, 2, nullptr, Device::kCpuOperators).value();
  for (int w : {0, 1}) {
    EXPECT_NEAR(found[w].nll_full, expected[w].nll_full, 1e-6 * expected[w].nll_full);
    for (int v : {0, 1}) {
      EXPECT_NEAR(found[w].nll[v], expected[w].nll[v], 1e-6 * expected[w].nll[v]);
      EXPECT_NEAR(found[w].kl[v], expected[w].kl[v], 1e-6 * expected[w].kl[v]);
    }
    ASSERT_EQ(found[w].token_kl.size(), expected[w].token_kl.size());
    for (size_t t = 0; t < found[w].token_kl.size(); ++t)
      EXPECT_NEAR(found[w].token_kl[t], expected[w].token_kl[t], 1e-5);
    EXPECT_NEAR(found[w].top1_agreements, expected[w].top1_agreements, 1);  // one near tie
  }
}

std::vector<double> MeanKl(const WeightProvider& full,
                           const std::vector<const WeightProvider*>& variants,
                           const std::vector<int32_t>& tokens, int64_t count) {
  const int64_t length = static_cast<int64_t>(tokens.size()) / count;
  std::vector<double> kl(variants.size(), 0.0);
  const auto scores = Scores(full, variants, tokens, count, length, 1, nullptr);
  EXPECT_TRUE(scores.ok()) << scores.status();
  for (const WindowScores& w : *scores) {
    for (size_t v = 0; v < kl.size(); ++v)
      kl[v] += w.kl[v] / static_cast<double>(count * (length - 1));
  }
  return kl;
}

TEST(MeasureLayers, IsTheKlOfTheModelWithOneLayerReplaced) {
  ArchitectureSpec spec = TinySpec();
  spec.blocks = 3;
  const RandomModel full(spec, 20);
  const std::vector<int32_t> tokens = RandomTokens(21, 3 * 14, 61);
  for (const Device device : {Device::kCpu, Device::kCpuOperators}) {
    for (int64_t block : {0, 1, 2}) {
      std::vector<LayerToMeasure> layers;
      std::vector<std::vector<double>> expected;
      for (const LinearLayer& layer : BlockLayers(spec, block)) {
        RandomModel replaced[2] = {RandomModel(spec, 20), RandomModel(spec, 20)};
        layers.push_back({layer, {}});
        for (int c : {0, 1}) {
          std::vector<float>& w = replaced[c].tensors[layer.name];
          for (size_t i = 0; i < w.size(); i += 3) w[i] *= c == 0 ? 0.7f : 1.1f;
          layers.back().candidates.push_back([w] { return w; });
        }
        expected.push_back(MeanKl(full, {&replaced[0], &replaced[1]}, tokens, 3));
      }
      auto model = ReferenceModel::Create(&full, 2, 0, device).value();
      VariantOptions options;
      options.threads = 2;
      options.device = device;
      TaskControl control;
      const auto found =
          MeasureLayers(model.get(), full, block, layers, tokens, 3, 14, options, &control);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_DOUBLE_EQ(control.progress, 1.0);
      for (size_t l = 0; l < layers.size(); ++l) {
        for (int c : {0, 1}) {
          EXPECT_GT(expected[l][c], 1e-5);
          EXPECT_NEAR((*found)[l][c], expected[l][c], 1e-5 * expected[l][c] + 1e-9)
              << layers[l].layer.name;
        }
      }
    }
  }
}

TEST(MeasureLayers, ClampsAtZeroAndRefusesOtherBlocks) {
  const RandomModel full(TinySpec(), 22);
  auto model = ReferenceModel::Create(&full, 1, 0).value();
  const LinearLayer layer = BlockLayers(full.spec(), 1)[3];
  const std::vector<float> same = full.tensors.at(layer.name);
  const std::vector<LayerToMeasure> layers = {{layer, {[&] { return same; }}}};
  const std::vector<int32_t> tokens = RandomTokens(23, 10, 61);
  EXPECT_EQ(MeasureLayers(model.get(), full, 1, layers, tokens, 1, 10, {}, nullptr).value()[0][0],
            0.0);
  EXPECT_THAT(
      MeasureLayers(model.get(), full, 0, layers, tokens, 1, 10, {}, nullptr).status().ToString(),
      HasSubstr("blocks.1.attn.o is not of block 0"));
  EXPECT_FALSE(MeasureLayers(model.get(), full, 2, layers, tokens, 1, 10, {}, nullptr).ok());
  EXPECT_FALSE(MeasureLayers(model.get(), full, 1, layers, tokens, 10, 1, {}, nullptr).ok());
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
      EXPECT_EQ(Scores(full, {&variant}, tokens, 4, 30, 2, &control).status().code(),
                absl::StatusCode::kCancelled)
          << at << (in_variant ? " of the variant" : " of the full model");
      EXPECT_LT(control.progress, 1.0);
    }
  }
}

}  // namespace
}  // namespace shiftadd
