#include "worker/reference/reference_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>

#include "worker/reference/testing/naive_model.h"
#include "worker/reference/testing/random_model.h"

namespace shiftadd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::NaiveLogits;
using testing::RandomModel;
using testing::RandomTokens;
using testing::TinySpec;

HiddenStates Forward(ReferenceModel* model, int64_t blocks, const std::vector<int32_t>& tokens,
                     int64_t count, const InputVisitor* visitor = nullptr) {
  HiddenStates h = model->Embed(tokens, count, static_cast<int64_t>(tokens.size()) / count).value();
  for (int64_t b = 0; b < blocks; ++b) EXPECT_TRUE(model->RunBlock(b, &h, visitor, nullptr).ok());
  return h;
}

void ExpectLikeNaive(const RandomModel& weights, int64_t count, int64_t length) {
  const ArchitectureSpec& s = weights.spec();
  const std::vector<int32_t> tokens = RandomTokens(7, count * length, s.vocab);
  auto model = ReferenceModel::Create(&weights, 1, 0).value();
  const HiddenStates h = Forward(model.get(), s.blocks, tokens, count);
  for (int64_t i = 0; i < count; ++i) {
    std::vector<float> logits;
    ASSERT_TRUE(model->Logits(h, i, &logits).ok());
    const std::vector<double> expected =
        NaiveLogits(weights, {tokens.begin() + i * length, tokens.begin() + (i + 1) * length});
    ASSERT_EQ(logits.size(), expected.size());
    double worst = 0;
    for (size_t j = 0; j < logits.size(); ++j)
      worst = std::max(worst, std::abs(logits[j] - expected[j]));
    EXPECT_LT(worst, 5e-5) << "sequence " << i;
  }
}

TEST(ReferenceModel, AgreesWithFloat64) { ExpectLikeNaive(RandomModel(TinySpec(), 1), 2, 11); }

TEST(ReferenceModel, AgreesWithFloat64BeyondOneChunk) {
  ArchitectureSpec s = TinySpec();
  s.blocks = 1;
  ExpectLikeNaive(RandomModel(s, 2), 1, 2 * ReferenceModel::kLogitsChunk + 3);
}

TEST(ReferenceModel, BiasesTiedEmbeddingsAndRopeScaling) {
  ArchitectureSpec s = TinySpec();
  s.qkv_bias = s.o_bias = s.mlp_bias = s.tied_embeddings = true;
  ExpectLikeNaive(RandomModel(s, 3), 1, 9);
  s.rope_scaling = RopeScaling::kLinear;
  s.rope_factor = 4;
  ExpectLikeNaive(RandomModel(s, 4), 1, 9);
  s.rope_scaling = RopeScaling::kLlama3;
  s.rope_factor = 8;
  s.rope_original_context = 64;
  s.kv_heads = 6;
  ExpectLikeNaive(RandomModel(s, 5), 1, 30);
}

TEST(ReferenceModel, SameBytesForAnyThreadsAndResidentBlocks) {
  ArchitectureSpec s = TinySpec();
  s.blocks = 4;
  const RandomModel weights(s, 6);
  const std::vector<int32_t> tokens = RandomTokens(8, 5 * 33, s.vocab);
  auto first = ReferenceModel::Create(&weights, 1, 0).value();
  const HiddenStates expected = Forward(first.get(), s.blocks, tokens, 5);
  for (int threads : {2, 3}) {
    for (int resident : {1, 2}) {
      auto model = ReferenceModel::Create(&weights, threads, resident).value();
      const HiddenStates h = Forward(model.get(), s.blocks, tokens, 5);
      EXPECT_EQ(0, std::memcmp(h.data.data(), expected.data.data(), h.data.size() * sizeof(float)))
          << threads << " threads, " << resident << " resident";
    }
  }
}

TEST(ReferenceModel, SameBytesFromAStoredBoundaryAndForAnySequenceAlone) {
  const RandomModel weights(TinySpec(), 9);
  const std::vector<int32_t> tokens = RandomTokens(10, 3 * 20, 61);
  auto model = ReferenceModel::Create(&weights, 1, 0).value();
  HiddenStates whole = model->Embed(tokens, 3, 20).value();
  ASSERT_TRUE(model->RunBlock(0, &whole, nullptr, nullptr).ok());
  HiddenStates boundary = whole;
  ASSERT_TRUE(model->RunBlock(1, &whole, nullptr, nullptr).ok());

  auto late = ReferenceModel::Create(&weights, 2, 1).value();
  HiddenStates alone{
      1, 20, 48, {boundary.data.begin() + 20 * 48, boundary.data.begin() + 2 * 20 * 48}};
  ASSERT_TRUE(late->RunBlock(1, &boundary, nullptr, nullptr).ok());
  EXPECT_EQ(whole.data, boundary.data);
  ASSERT_TRUE(late->RunBlock(1, &alone, nullptr, nullptr).ok());
  EXPECT_EQ(alone.data,
            std::vector<float>(whole.data.begin() + 20 * 48, whole.data.begin() + 2 * 20 * 48));
}

TEST(ReferenceModel, KeepsAtMostResidentBlocks) {
  ArchitectureSpec s = TinySpec();
  s.blocks = 3;
  const RandomModel weights(s, 11);
  auto model = ReferenceModel::Create(&weights, 1, 2).value();
  HiddenStates h = model->Embed({1, 2, 3}, 1, 3).value();
  const auto reads_of = [&](int64_t block) {
    const int64_t before = weights.reads;
    EXPECT_TRUE(model->RunBlock(block, &h, nullptr, nullptr).ok());
    return weights.reads - before;
  };
  EXPECT_EQ(reads_of(0), 9);
  EXPECT_EQ(reads_of(1), 9);
  EXPECT_EQ(reads_of(0), 0);
  EXPECT_EQ(reads_of(2), 9);  // in the place of 1, used longest ago
  EXPECT_EQ(reads_of(0), 0);
  EXPECT_EQ(reads_of(1), 9);
}

TEST(ReferenceModel, VisitorSeesTheInputsOfEveryLayer) {
  const RandomModel weights(TinySpec(), 12);
  const std::vector<int32_t> tokens = RandomTokens(13, 2 * 6, 61);
  auto model = ReferenceModel::Create(&weights, 2, 0).value();
  HiddenStates h = model->Embed(tokens, 2, 6).value();
  const HiddenStates before = h;
  std::mutex mutex;
  std::map<int64_t, std::vector<BlockInput>> order;
  std::vector<float> attn;
  const InputVisitor visitor = [&](BlockInput input, int64_t sequence, const float* x, int64_t n,
                                   int64_t width) {
    std::lock_guard<std::mutex> lock(mutex);
    order[sequence].push_back(input);
    EXPECT_EQ(n, 6);
    EXPECT_EQ(width, input == BlockInput::kMlpAct ? 80 : 48);
    if (sequence == 1 && input == BlockInput::kAttn) attn.assign(x, x + n * width);
  };
  TaskControl control;
  ASSERT_TRUE(model->RunBlock(0, &h, &visitor, &control).ok());
  EXPECT_EQ(control.progress_count, 2u);
  for (int64_t s : {0, 1}) {
    EXPECT_THAT(order[s], ElementsAre(BlockInput::kAttn, BlockInput::kAttnOut, BlockInput::kMlp,
                                      BlockInput::kMlpAct));
  }
  // The first input is the norm of what came in.
  const float* row = before.data.data() + 6 * 48;
  double square = 0;
  for (int i = 0; i < 48; ++i) square += row[i] * row[i];
  const std::vector<float>& gain = weights.tensors.at("blocks.0.attn_norm");
  for (int i = 0; i < 48; ++i)
    EXPECT_NEAR(attn[i], row[i] / std::sqrt(square / 48 + 1e-5) * gain[i], 1e-5);
}

TEST(ReferenceModel, OneInputCanBeVisitedWithoutTheRestOfTheBlock) {
  const RandomModel weights(TinySpec(), 12);
  const std::vector<int32_t> tokens = RandomTokens(13, 2 * 6, 61);
  auto model = ReferenceModel::Create(&weights, 2, 0).value();
  const HiddenStates before = model->Embed(tokens, 2, 6).value();
  std::mutex mutex;
  using Seen = std::map<std::pair<BlockInput, int64_t>, std::vector<float>>;
  Seen seen;
  const InputVisitor visitor = [&](BlockInput input, int64_t sequence, const float* x, int64_t n,
                                   int64_t width) {
    std::lock_guard<std::mutex> lock(mutex);
    EXPECT_TRUE(
        seen.emplace(std::make_pair(input, sequence), std::vector<float>(x, x + n * width)).second);
  };
  HiddenStates h = before;
  ASSERT_TRUE(model->RunBlock(1, &h, &visitor, nullptr).ok());
  const Seen whole = std::exchange(seen, {});
  ASSERT_EQ(whole.size(), 8u);
  h = before;
  for (const BlockInput input :
       {BlockInput::kAttn, BlockInput::kAttnOut, BlockInput::kMlp, BlockInput::kMlpAct}) {
    const size_t so_far = seen.size();
    ASSERT_TRUE(model->VisitInput(1, input, h, visitor, nullptr).ok());
    EXPECT_EQ(seen.size(), so_far + 2);
  }
  EXPECT_EQ(seen, whole);
  EXPECT_EQ(h.data, before.data);
  EXPECT_FALSE(model->VisitInput(9, BlockInput::kAttn, h, visitor, nullptr).ok());
}

TEST(ReferenceModel, RefusesBadInput) {
  const RandomModel weights(TinySpec(), 14);
  auto model = ReferenceModel::Create(&weights, 1, 0).value();
  EXPECT_THAT(model->Embed({1, 61}, 1, 2).status().ToString(),
              HasSubstr("token 1 is 61, the vocabulary has 61"));
  EXPECT_EQ(model->Embed({1, -1}, 1, 2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(model->Embed({1, 2}, 1, 3).status().code(), absl::StatusCode::kInvalidArgument);
  HiddenStates h = model->Embed({1, 2}, 1, 2).value();
  EXPECT_EQ(model->RunBlock(2, &h, nullptr, nullptr).code(), absl::StatusCode::kInvalidArgument);
  std::vector<float> out;
  EXPECT_EQ(model->Logits(h, 1, &out).code(), absl::StatusCode::kInvalidArgument);
  h.data.pop_back();
  EXPECT_EQ(model->RunBlock(0, &h, nullptr, nullptr).code(), absl::StatusCode::kInvalidArgument);
}

TEST(ReferenceModel, NamesMissingAndMisshapenTensors) {
  RandomModel weights(TinySpec(), 15);
  weights.tensors["blocks.1.attn.k"].pop_back();
  auto model = ReferenceModel::Create(&weights, 1, 0).value();
  HiddenStates h = model->Embed({1, 2}, 1, 2).value();
  const absl::Status status = model->RunBlock(1, &h, nullptr, nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.ToString(), HasSubstr("blocks.1.attn.k: 767 elements, expected 768"));
  weights.tensors.erase("blocks.0.mlp.up");
  weights.tensors.erase("head");
  EXPECT_THAT(ReferenceModel::Create(&weights, 1, 0).status().ToString(),
              HasSubstr("2 tensors: head, blocks.0.mlp.up"));
  ArchitectureSpec odd = TinySpec();
  odd.kv_heads = 4;
  const RandomModel uneven(odd, 1);
  EXPECT_THAT(ReferenceModel::Create(&uneven, 1, 0).status().ToString(),
              HasSubstr("not a multiple"));
}

TEST(ReferenceModel, StopsWhenCancelled) {
  const RandomModel weights(TinySpec(), 16);
  auto model = ReferenceModel::Create(&weights, 2, 0).value();
  HiddenStates h = model->Embed(RandomTokens(1, 40, 61), 4, 10).value();
  TaskControl control;
  const InputVisitor cancel = [&](BlockInput, int64_t, const float*, int64_t, int64_t) {
    control.cancelled = true;
  };
  EXPECT_EQ(model->RunBlock(0, &h, &cancel, &control).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(control.progress_count, 0u);
}

}  // namespace
}  // namespace shiftadd
