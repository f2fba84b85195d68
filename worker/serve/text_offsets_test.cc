#include "worker/serve/text_offsets.h"

#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/serve/text_stream.h"

namespace shiftadd {
namespace {

using nlohmann::json;
using Offsets = std::vector<int64_t>;

const json& Golden() {
  static const auto* const golden = [] {
    std::ifstream in(SHIFTADD_SOURCE_DIR "/tests/golden/tokenizers.json");
    return new json(json::parse(in));
  }();
  return *golden;
}

std::unique_ptr<Tokenizer> TokenizerOf(const std::string& name) {
  for (const json& one : Golden().at("entries")) {
    if (one.at("name") == name) return *Tokenizer::FromJson(one.at("tokenizer").dump());
  }
  return nullptr;
}

Offsets All(TextOffsets offsets, const std::vector<int32_t>& tokens) {
  Offsets out;
  for (const int32_t token : tokens) out.push_back(offsets.Next(token));
  return out;
}

// The byte at which character `n` begins.
size_t ByteOf(const std::string& utf8, int64_t n) {
  size_t at = 0;
  for (; n > 0 && at < utf8.size(); --n) at += FirstCharacter(absl::string_view(utf8).substr(at));
  return at;
}

class TextOffsetsTest : public ::testing::TestWithParam<std::string> {
 protected:
  const std::unique_ptr<Tokenizer> tokenizer_ = TokenizerOf(GetParam());
};

// Every token of whole characters stands where its offset says, in the prompt and behind it.
TEST_P(TextOffsetsTest, TextAtTheOffsetIsTheTokens) {
  size_t compared = 0;
  for (const std::string text : {"the planes, and naïve über 50%", "日本 🙂 planes",
                                 " two  spaces", "\n\nx", "<s>the</s> planes [tool] it"}) {
    const std::vector<int32_t> prompt = tokenizer_->Encode(text, true, true);
    std::vector<int32_t> tokens = prompt;
    const std::string more = " planes 🙂";
    std::string whole = text;
    for (const int32_t token : tokenizer_->Encode(more, false, true)) {
      tokens.push_back(token);
      whole += tokenizer_->Decode({token}, true);
    }
    const Offsets offsets =
        All({tokenizer_.get(), text, static_cast<int64_t>(prompt.size())}, tokens);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const std::string token = tokenizer_->Decode({tokens[i]}, false);
      const absl::string_view there = absl::string_view(whole).substr(ByteOf(whole, offsets[i]));
      SCOPED_TRACE("token " + std::to_string(i) + " \"" + token + "\" of \"" + whole + "\" at " +
                   std::to_string(offsets[i]));
      EXPECT_GE(offsets[i], i > 0 ? offsets[i - 1] : 0);
      const bool whole_there =
          absl::StartsWith(there, token) || absl::StartsWith(there, absl::StripPrefix(token, " "));
      if (tokenizer_->IsSpecial(tokens[i])) {
        // As text, or no room at all.
        EXPECT_TRUE(whole_there || i + 1 == tokens.size() || offsets[i + 1] == offsets[i]);
      } else if (ToValidUtf8(token) == token) {
        EXPECT_TRUE(whole_there);
        ++compared;
      }
    }
    // The last token begins in the last character.
    EXPECT_EQ(ByteOf(whole, offsets.back() + 1), whole.size());
  }
  EXPECT_GT(compared, 40u);
}

INSTANTIATE_TEST_SUITE_P(Kinds, TextOffsetsTest,
                         ::testing::Values("gpt2", "llama3", "qwen2", "bloom", "tekken",
                                           "deepseek_coder", "llama2", "llama2_old", "mistral",
                                           "gemma", "unigram_bytes"),
                         [](const auto& info) { return info.param; });

TEST(TextOffsets, AddedBosAndTheSpaceBeforeATextTakeNoRoom) {
  const auto tokenizer = TokenizerOf("llama2");
  const std::string text = "it is";
  const std::vector<int32_t> ids = tokenizer->Encode(text, true, true);
  ASSERT_EQ(ids.size(), 3u);  // <s>, "▁it", "▁is"
  EXPECT_EQ(All({tokenizer.get(), text, 3}, ids), (Offsets{0, 0, 2}));
  // As ids, BOS is in the text: "<s> it is".
  EXPECT_EQ(All({tokenizer.get(), tokenizer->Decode(ids, false), 3}, ids), (Offsets{0, 3, 6}));
  // Without it the space is not: "it is".
  const std::vector<int32_t> bare(ids.begin() + 1, ids.end());
  EXPECT_EQ(All({tokenizer.get(), tokenizer->Decode(bare, false), 2}, bare), (Offsets{0, 2}));
  // What is generated has its space and no special tokens: "" and " it", " is".
  EXPECT_EQ(All({tokenizer.get(), "", 0}, {ids[1], ids[0], ids[2]}), (Offsets{0, 3, 3}));
}

TEST(TextOffsets, BytesOfACharacterStandAtIt) {
  const auto tokenizer = TokenizerOf("llama2");
  const auto bytes = [&](const std::string& text) {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(4 + static_cast<uint8_t>(c));  // <0x00> is 4
    return ids;
  };
  const std::vector<int32_t> ids = bytes("a🙂b");
  EXPECT_EQ(All({tokenizer.get(), "", 0}, ids), (Offsets{0, 1, 1, 1, 1, 2}));
  EXPECT_EQ(All({tokenizer.get(), "a🙂b", 6}, ids), (Offsets{0, 1, 1, 1, 1, 2}));
  // A special token, which is not shown, comes between.
  std::vector<int32_t> cut = bytes("é!");
  cut.insert(cut.begin() + 1, 1);
  EXPECT_EQ(All({tokenizer.get(), "", 0}, cut), (Offsets{0, 0, 0, 1}));
  // A character that breaks off becomes one U+FFFD: "\xf0\x9f" and then "b".
  EXPECT_EQ(All({tokenizer.get(), "", 0}, bytes("\xf0\x9f"
                                                "b")),
            (Offsets{0, 0, 1}));
  // What the prompt leaves unfinished is its own, and so is what is generated: two of them.
  EXPECT_EQ(All({tokenizer.get(), "x\xc3", 2}, bytes("x\xc3\xa9y")), (Offsets{0, 1, 2, 3}));
}

TEST(TextOffsets, WhatANormalizerChangedIsPassedOver) {
  const auto tokenizer = TokenizerOf("unigram_mapped");
  const std::string text = "the    planes";
  const std::vector<int32_t> ids = tokenizer->Encode(text, false, true);
  const Offsets offsets = All({tokenizer.get(), text, static_cast<int64_t>(ids.size())}, ids);
  EXPECT_EQ(offsets.front(), 0);
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string token = tokenizer->Decode({ids[i]}, false);
    const absl::string_view there = absl::string_view(text).substr(offsets[i]);
    EXPECT_TRUE(absl::StartsWith(there, token) ||
                absl::StartsWith(there, absl::StripPrefix(token, " ")))
        << token << " at " << offsets[i];
  }
}

}  // namespace
}  // namespace shiftadd
