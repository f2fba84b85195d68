// ReferenceModel::TokenWeights against finite differences in float64 and a closed form.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "worker/reference/reference_model.h"
#include "worker/reference/testing/naive_model.h"
#include "worker/reference/testing/random_model.h"

namespace shiftadd {
namespace {

using ::testing::HasSubstr;
using testing::NaiveLogits;
using testing::NaiveLogSoftmax;
using testing::NaiveLoss;
using testing::RandomModel;
using testing::RandomTokens;
using testing::TinySpec;

// Small enough to differentiate by moving every output.
ArchitectureSpec SmallSpec() {
  ArchitectureSpec s = TinySpec();
  s.vocab = 23;
  s.hidden = 20;
  s.intermediate = 28;
  s.heads = 6;
  s.kv_heads = 3;
  s.head_dim = 4;
  return s;
}

// The loss's derivative at output `row` of a layer for `token`, by central differences.
double Derivative(const RandomModel& weights, const std::vector<int32_t>& tokens,
                  const std::string& layer, size_t token, int64_t row) {
  constexpr double kStep = 1e-4;
  double loss[2];
  for (int side : {0, 1}) {
    const auto move = [&](const std::string& name, std::vector<std::vector<double>>* y) {
      if (name == layer) (*y)[token][row] += side == 0 ? -kStep : kStep;
    };
    loss[side] = NaiveLoss(weights, tokens, move);
  }
  return (loss[1] - loss[0]) / (2 * kStep);
}

// Mean squares of the derivatives by chunk of rows.
std::vector<double> ExpectedWeights(const RandomModel& weights, const std::vector<int32_t>& tokens,
                                    const LinearLayer& layer, size_t token, int64_t chunks) {
  std::vector<double> out;
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t begin = layer.rows * c / chunks, end = layer.rows * (c + 1) / chunks;
    double sum = 0;
    for (int64_t row = begin; row < end; ++row) {
      const double g = Derivative(weights, tokens, layer.name, token, row);
      sum += g * g;
    }
    out.push_back(sum / static_cast<double>(end - begin));
  }
  return out;
}

GuidedStatistics Weights(const RandomModel& weights, const std::vector<int32_t>& tokens,
                         int64_t count, const GuidedOptions& options, int threads = 1) {
  auto model = ReferenceModel::Create(&weights, threads, 0).value();
  auto result = model->TokenWeights(tokens, count, static_cast<int64_t>(tokens.size()) / count,
                                    options, nullptr);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : GuidedStatistics{};
}

void ExpectLikeDifferences(const ArchitectureSpec& spec, int64_t chunks) {
  const RandomModel weights(spec, 1);
  const int64_t length = 6;
  const std::vector<int32_t> tokens = RandomTokens(2, 2 * length, spec.vocab);
  GuidedOptions options;
  options.chunks = chunks;
  const GuidedStatistics found = Weights(weights, tokens, 2, options);
  ASSERT_EQ(found.blocks.size(), 2u);
  for (int64_t block = 0; block < spec.blocks; ++block) {
    const std::vector<LinearLayer> layers = BlockLayers(spec, block);
    for (size_t l = 0; l < layers.size(); ++l) {
      const std::vector<float>& s = found.blocks[block].layers[l];
      ASSERT_EQ(s.size(), static_cast<size_t>(2 * length * chunks));
      for (int64_t t = 0; t < length; ++t) {  // of the second sequence
        const std::vector<double> expected =
            ExpectedWeights(weights, {tokens.begin() + length, tokens.end()}, layers[l], t, chunks);
        for (int64_t c = 0; c < chunks; ++c) {
          EXPECT_NEAR(s[(length + t) * chunks + c], expected[c], 2e-4 * expected[c] + 1e-9)
              << layers[l].name << " token " << t << " chunk " << c;
        }
      }
    }
  }
}

TEST(TokenWeights, AreTheMeanSquaresOfFiniteDifferences) { ExpectLikeDifferences(SmallSpec(), 1); }

TEST(TokenWeights, ByChunksOfRowsWithBiasesAndTiedEmbeddings) {
  ArchitectureSpec s = SmallSpec();
  s.qkv_bias = s.o_bias = s.mlp_bias = s.tied_embeddings = true;
  ExpectLikeDifferences(s, 3);
}

TEST(TokenWeights, HoldBeyondOneChunkOfAttentionAndLogits) {
  const ArchitectureSpec spec = SmallSpec();
  const RandomModel weights(spec, 3);
  const std::vector<int32_t> tokens = RandomTokens(4, ReferenceModel::kLogitsChunk + 11, 23);
  const GuidedStatistics found = Weights(weights, tokens, 1, {});
  const std::vector<LinearLayer> layers = BlockLayers(spec, 0);
  for (size_t l = 0; l < 3; ++l) {  // q, k, v
    for (size_t t : {size_t{2}, tokens.size() - 5}) {
      const double expected = ExpectedWeights(weights, tokens, layers[l], t, 1)[0];
      EXPECT_NEAR(found.blocks[0].layers[l][t], expected, 3e-4 * expected) << layers[l].name;
    }
  }
}

// The last down projection's gradient is that of norm, head and cross entropy, written out.
TEST(TokenWeights, OfTheLastDownProjectionFollowTheFormula) {
  const RandomModel weights(TinySpec(), 5);
  const ArchitectureSpec& s = weights.spec();
  const std::vector<int32_t> tokens = RandomTokens(6, 150, s.vocab);
  std::vector<std::vector<double>> h;
  const std::vector<double> logits = NaiveLogits(
      weights, tokens, [&](const std::string& name, std::vector<std::vector<double>>* y) {
        if (name == absl::StrCat("blocks.", s.blocks - 1)) h = *y;
      });
  const GuidedStatistics found = Weights(weights, tokens, 1, {});
  const std::vector<float>& head = weights.tensors.at("head");
  const std::vector<float>& gain = weights.tensors.at("final_norm");
  for (size_t t = 0; t < tokens.size(); ++t) {
    std::vector<double> g_norm(s.hidden, 0.0);  // at the norm's output
    if (t + 1 < tokens.size()) {
      const std::vector<double> log_p = NaiveLogSoftmax(logits.data() + t * s.vocab, s.vocab);
      for (int64_t v = 0; v < s.vocab; ++v) {
        const double g = std::exp(log_p[v]) - (v == tokens[t + 1] ? 1 : 0);
        for (int64_t i = 0; i < s.hidden; ++i) g_norm[i] += g * head[v * s.hidden + i];
      }
    }
    double square = 0, along = 0;
    for (int64_t i = 0; i < s.hidden; ++i) {
      square += h[t][i] * h[t][i];
      along += g_norm[i] * gain[i] * h[t][i];
    }
    const double rms = std::sqrt(square / static_cast<double>(s.hidden) + s.norm_eps);
    double expected = 0;
    for (int64_t i = 0; i < s.hidden; ++i) {
      const double g =
          (g_norm[i] * gain[i] - h[t][i] * along / (static_cast<double>(s.hidden) * rms * rms)) /
          rms;
      expected += g * g / static_cast<double>(s.hidden);
    }
    EXPECT_NEAR(found.blocks.back().layers[6][t], expected, 1e-4 * expected) << t;
  }
}

TEST(TokenWeights, SameBytesForAnyThreadsResidentBlocksAndGroups) {
  ArchitectureSpec s = TinySpec();
  s.blocks = 3;
  const RandomModel weights(s, 7);
  const std::vector<int32_t> tokens = RandomTokens(8, 5 * 33, s.vocab);
  const GuidedStatistics expected = Weights(weights, tokens, 5, {});
  for (int threads : {1, 2, 3}) {
    for (uint64_t bytes : {uint64_t{1}, uint64_t{1} << 30}) {
      auto model = ReferenceModel::Create(&weights, threads, 1).value();
      GuidedOptions options;
      options.boundary_bytes = bytes;
      TaskControl control;
      const auto found = model->TokenWeights(tokens, 5, 33, options, &control);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_DOUBLE_EQ(control.progress, 1.0);
      for (size_t b = 0; b < found->blocks.size(); ++b)
        EXPECT_EQ(found->blocks[b].layers, expected.blocks[b].layers) << threads << " threads";
    }
  }
}

TEST(TokenWeights, HandOutTheBoundariesOfTheForwardPass) {
  const RandomModel weights(TinySpec(), 9);
  const std::vector<int32_t> tokens = RandomTokens(10, 3 * 20, 61);
  auto model = ReferenceModel::Create(&weights, 1, 0).value();
  HiddenStates h = model->Embed(tokens, 3, 20).value();
  std::vector<HiddenStates> expected = {h};
  for (int64_t block : {0, 1}) {
    ASSERT_TRUE(model->RunBlock(block, &h, nullptr, nullptr).ok());
    expected.push_back(h);
  }
  GuidedOptions options;
  options.boundary_bytes = 1;  // one sequence at a time
  options.boundary_blocks = {0, 1, 2};
  int64_t calls = 0;
  options.boundary = [&](int64_t block, int64_t first, const HiddenStates& found) {
    EXPECT_EQ(block, calls % 3);
    EXPECT_EQ(first, calls / 3);
    const auto begin = expected[block].data.begin() + first * 20 * 48;
    EXPECT_EQ(found.data, std::vector<float>(begin, begin + 20 * 48));
    ++calls;
  };
  ASSERT_TRUE(model->TokenWeights(tokens, 3, 20, options, nullptr).ok());
  EXPECT_EQ(calls, 9);
}

TEST(TokenWeights, AreZeroWithoutAPredictedToken) {
  const RandomModel weights(TinySpec(), 11);
  const GuidedStatistics found = Weights(weights, {3, 4}, 2, {});
  for (const BlockTokenWeights& block : found.blocks) {
    for (const std::vector<float>& s : block.layers) EXPECT_EQ(s, std::vector<float>(2, 0.0f));
  }
}

TEST(TokenWeights, PassOnWhatIsNotFinite) {
  RandomModel weights(TinySpec(), 12);
  for (float& x : weights.tensors["head"]) x *= 1e38f;
  const GuidedStatistics found = Weights(weights, RandomTokens(13, 12, 61), 1, {});
  EXPECT_FALSE(std::isfinite(found.blocks[1].layers[6][0]));
  EXPECT_FALSE(std::isfinite(found.blocks[0].layers[0][0]));
}

TEST(TokenWeights, RefuseBadInputAndStopWhenCancelled) {
  const RandomModel weights(TinySpec(), 14);
  auto model = ReferenceModel::Create(&weights, 1, 0).value();
  GuidedOptions options;
  EXPECT_EQ(model->TokenWeights({1, 61}, 1, 2, options, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.chunks = 17;
  EXPECT_THAT(model->TokenWeights({1, 2}, 1, 2, options, nullptr).status().ToString(),
              HasSubstr("17 chunks, expected 1 to 16, the rows of layer k"));
  options.chunks = 0;
  EXPECT_FALSE(model->TokenWeights({1, 2}, 1, 2, options, nullptr).ok());
  options.chunks = 1;
  TaskControl control;
  options.boundary_blocks = {2};
  options.boundary = [&](int64_t block, int64_t, const HiddenStates&) {
    control.cancelled = block == 2;
  };
  EXPECT_EQ(model->TokenWeights({1, 2}, 1, 2, options, &control).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace shiftadd
