// Token ids, words and chats against values made with Hugging Face's libraries (tests/golden).
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/model/byte_level.h"
#include "worker/model/model_source.h"
#include "worker/model/pre_tokenizer.h"
#include "worker/model/testing/tiny_tokenizer.h"
#include "worker/model/tokenizer.h"

namespace shiftadd {
namespace {

using nlohmann::json;

json Golden(const std::string& name) {
  std::ifstream in(std::string(SHIFTADD_SOURCE_DIR) + "/tests/golden/" + name);
  EXPECT_TRUE(in.good()) << name;
  return json::parse(in);
}

std::string SampleModel() {
  const char* path = std::getenv("SHIFTADD_TEST_MODEL");
  if (path != nullptr) return path;
  const char* home = std::getenv("HOME");
  return std::string(home == nullptr ? "" : home) +
         "/.cache/shiftadd/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

std::vector<ChatMessage> Messages(const json& list) {
  std::vector<ChatMessage> messages;
  for (const json& m : list) messages.push_back({m.at("role"), m.at("content")});
  return messages;
}

TEST(PreTokenizerGoldenTest, WordsAreEqual) {
  const json golden = Golden("pre_tokenizers.json");
  int compared = 0;
  for (const json& entry : golden.at("pre_tokenizers")) {
    const auto pre = PreTokenizer::FromJson(entry.at("pre_tokenizer"));
    ASSERT_TRUE(pre.ok()) << pre.status();
    for (size_t i = 0; i < golden.at("texts").size(); ++i) {
      const std::string text = golden.at("texts")[i];
      std::deque<std::string> storage;
      std::vector<absl::string_view> words;
      pre->Split(text, &storage, &words);
      json got = json::array();
      for (absl::string_view word : words) got.push_back(BytesToText(word));
      EXPECT_EQ(got, entry.at("words")[i]) << entry.at("name") << ": " << json(text);
      ++compared;
    }
  }
  EXPECT_GT(compared, 300);
}

TEST(NormalizerGoldenTest, ComposedTextGivesTheSameIds) {
  json document = json::parse(testing::TinyTokenizerJson(testing::MakeTinyTokenizer(300), false));
  document["normalizer"] = {{"type", "NFC"}};
  const auto tokenizer = Tokenizer::FromJson(document.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const json cases = Golden("nfc.json").at("cases");
  EXPECT_FALSE(cases.empty());
  for (const json& c : cases) {
    const std::string text = c.at("text");
    EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode(text, false, false), false),
              c.at("nfc").get<std::string>());
  }
}

class SmolLm2Test : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(SampleModel())) {
      GTEST_SKIP() << SampleModel() << " is not there; set SHIFTADD_TEST_MODEL";
    }
    auto model = ModelSource::Open(SampleModel());
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    auto tokenizer = Tokenizer::FromJson(model_->tokenizer_json());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }
  std::unique_ptr<ModelSource> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(SmolLm2Test, TokenIdsAreEqual) {
  const json golden = Golden("smollm2_tokens.json");
  for (const json& c : golden.at("cases")) {
    const std::string text = c.at("text");
    const std::vector<int32_t> ids = c.at("ids");
    EXPECT_EQ(tokenizer_->Encode(text, false, true), ids) << json(text);
    EXPECT_EQ(tokenizer_->Encode(text, true, true), ids) << "no BOS is added; " << json(text);
    const std::vector<int32_t> plain = c.value("ids_without_special", ids);
    EXPECT_EQ(tokenizer_->Encode(text, false, false), plain) << json(text);
    EXPECT_EQ(tokenizer_->Decode(ids, false), c.at("decoded").get<std::string>());
  }
}

TEST_F(SmolLm2Test, ChatIsEqual) {
  const json chats = Golden("chats.json");
  for (const json& c : chats.at("cases")) {
    if (c.at("name") != "smollm2") continue;
    const auto text =
        tokenizer_->RenderChat(Messages(c.at("messages")), c.at("add_generation_prompt"));
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, c.at("rendered").get<std::string>());
    EXPECT_EQ(tokenizer_->Encode(*text, false, true), c.at("ids").get<std::vector<int32_t>>());
  }
}

TEST_F(SmolLm2Test, TheModelIsWhatTheFileSays) {
  const ArchitectureSpec& s = model_->spec();
  EXPECT_EQ(s.vocab, 49152);
  EXPECT_EQ(s.hidden, 576);
  EXPECT_EQ(s.blocks, 30);
  EXPECT_EQ(s.heads, 9);
  EXPECT_EQ(s.kv_heads, 3);
  EXPECT_EQ(s.head_dim, 64);
  EXPECT_EQ(s.context, 8192);
  EXPECT_EQ(s.norm_eps, 1e-5);
  EXPECT_EQ(s.rope_theta, 100000.0);
  EXPECT_TRUE(s.tied_embeddings);
  EXPECT_FALSE(s.qkv_bias);
  EXPECT_FALSE(s.add_bos);
  EXPECT_EQ(s.bos_token, 1);
  EXPECT_EQ(s.eos_tokens, std::vector<int64_t>{2});
  EXPECT_EQ(tokenizer_->vocab_size(), s.vocab);
  for (const char* name : {"embed", "blocks.0.attn.q", "blocks.29.mlp.down", "final_norm"}) {
    EXPECT_TRUE(model_->Read(name).ok()) << name;
  }
  EXPECT_EQ(model_->Read("head").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace shiftadd
