#include "worker/model/tokenizer.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/model/testing/tiny_tokenizer.h"
#include "worker/model/utf8.h"

namespace shiftadd {
namespace {

using ::testing::ElementsAre;

std::unique_ptr<Tokenizer> Tiny(bool add_bos = false) {
  auto tokenizer =
      Tokenizer::FromJson(testing::TinyTokenizerJson(testing::MakeTinyTokenizer(700), add_bos));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(TokenizerTest, RandomBytesComeBack) {
  const auto tokenizer = Tiny();
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    const size_t size = random() % 400;
    for (size_t i = 0; i < size; ++i) text.push_back(static_cast<char>(random() & 255));
    const auto ids = tokenizer->Encode(text, false, round % 2 == 0);
    EXPECT_EQ(tokenizer->Decode(ids, false), text);
  }
}

TEST(TokenizerTest, MergesGoByRank) {
  const auto tokenizer = Tiny();
  // "he" (id 260) ranks before "th"; " t" + "he" then merge.
  EXPECT_EQ(tokenizer->Decode({260}, false), "he");
  EXPECT_THAT(tokenizer->Encode(" the", false, false), ElementsAre(267));
  EXPECT_EQ(tokenizer->Decode({267}, false), " the");
}

TEST(TokenizerTest, SpecialTokensAreParsedOnDemand) {
  const auto tokenizer = Tiny(true);
  EXPECT_THAT(tokenizer->Encode("<|im_end|>", false, true), ElementsAre(2));
  EXPECT_GT(tokenizer->Encode("<|im_end|>", false, false).size(), 3u);
  EXPECT_THAT(tokenizer->Encode("", true, false), ElementsAre(0));
  EXPECT_EQ(tokenizer->Decode({0, 1, 2}, true), "");
  EXPECT_EQ(tokenizer->Decode({1, 2, -5, 1 << 30}, false), "<|im_start|><|im_end|>");
  EXPECT_TRUE(tokenizer->IsSpecial(2));
  EXPECT_FALSE(tokenizer->IsSpecial(3));
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_EQ(tokenizer->vocab_size(), 700);
}

TEST(TokenizerTest, TheLongestAddedTokenIsTaken) {
  nlohmann::json document =
      nlohmann::json::parse(testing::TinyTokenizerJson(testing::MakeTinyTokenizer(700), false));
  int32_t id = 700;
  const auto add = [&](const std::string& content, bool special) {
    document["added_tokens"].push_back({{"id", id},
                                        {"content", content},
                                        {"special", special},
                                        {"normalized", false},
                                        {"single_word", false},
                                        {"lstrip", false},
                                        {"rstrip", false}});
    return id++;
  };
  const int32_t open = add("<a", false), whole = add("<a1>", true), two = add("<a12>", false);
  for (int i = 0; i < 3000; ++i) add("<a" + std::to_string(1000 + i) + ">", true);
  const auto tokenizer = Tokenizer::FromJson(document.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("<a<a1><a12><a1002>", false, true),
              ElementsAre(open, whole, two, 705));
  // Where special ones are text, shorter ones in them are found.
  const std::vector<int32_t> plain = (*tokenizer)->Encode("<a1><a12>", false, false);
  ASSERT_GE(plain.size(), 3u);
  EXPECT_EQ(plain.front(), open);
  EXPECT_EQ(plain.back(), two);
  EXPECT_EQ((*tokenizer)->Decode(plain, false), "<a1><a12>");
  EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode("<a1<<a9999<a", false, true), false),
            "<a1<<a9999<a");
}

TEST(TokenizerTest, LongRunsDoNotHang) {
  const auto tokenizer = Tiny();
  for (const std::string& unit : {std::string(" "), std::string("a"), std::string("\n "),
                                  std::string("9"), std::string("\xff"), std::string("he")}) {
    std::string text;
    while (text.size() < 300000) text += unit;
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text, false, false), false), text);
  }
}

std::string Normal(const char* form, const std::string& text) {
  nlohmann::json document =
      nlohmann::json::parse(testing::TinyTokenizerJson(testing::MakeTinyTokenizer(700), false));
  document["normalizer"] = {{"type", form}};
  const auto tokenizer = Tokenizer::FromJson(document.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return (*tokenizer)->Decode((*tokenizer)->Encode(text, false, false), false);
}

TEST(TokenizerTest, LongRunsOfMarksAreNormalized) {
  const auto repeat = [](const std::string& text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
  };
  // An acute above and a dot below, which stands first; and a vowel sign that is two marks. Were
  // the time to grow with the square of the length, this would take hours.
  for (const int times : {1, 2, 3, 100'000}) {
    const std::string marks = "x" + repeat("\u0301\u0323", times) + "y";
    const std::string ordered = "x" + repeat("\u0323", times) + repeat("\u0301", times) + "y";
    for (const char* form : {"NFD", "NFKD"}) EXPECT_EQ(Normal(form, marks), ordered);
    // The last of each form a letter with those before them, where there is one.
    EXPECT_EQ(Normal("NFC", "a" + marks.substr(1)),
              "\u1ea1" + repeat("\u0323", times - 1) + repeat("\u0301", times) + "y");
    EXPECT_EQ(Normal("NFC", repeat("\u0f73", times)),
              repeat("\u0f71", times) + repeat("\u0f72", times));
  }
  // Where nothing is to be ordered across: a class of 0 in between.
  EXPECT_EQ(Normal("NFD", "\u0301\u0323-\u0301\u0323"), "\u0323\u0301-\u0323\u0301");
  EXPECT_EQ(Normal("NFC", "e\u0301\uac00\u11a8"), "\u00e9\uac01");
  EXPECT_EQ(Normal("NFKC", "\ufb01\u00b2"), "fi2");
}

// What Python's unicodedata makes of syllables of Hangul and what may stand behind them.
TEST(TokenizerTest, HangulIsComposedAndNothingOfItIsLost) {
  const std::pair<const char*, const char*> table[] = {
      // One before the first trailing consonant, the first, the last, and one behind that.
      {"\uac00\u11a7", "\uac00\u11a7"},
      {"\uac00\u11a8", "\uac01"},
      {"\uac00\u11c2", "\uac1b"},
      {"\uac00\u11c3", "\uac00\u11c3"},
      {"\u1100\u1161\u11a7", "\uac00\u11a7"},
      {"\u1100\u1161\u11a8", "\uac01"},
      {"\u1112\u1175\u11c2", "\ud7a3"},
      {"\uac01\u11a8", "\uac01\u11a8"},
      // What stands around U+11A7 is composed.
      {"\u11a7", "\u11a7"},
      {"\u11a7\u11a7\u1100\u1161", "\u11a7\u11a7\uac00"},
      {"e\u0301\uac00\u11a7\u11a8\u1100\u1161\u11a8e\u0301",
       "\u00e9\uac00\u11a7\u11a8\uac01\u00e9"},
      {"\uac00\u11a7\u0301\u11a8", "\uac00\u11a7\u0301\u11a8"},
  };
  for (const auto& [text, composed] : table) {
    EXPECT_EQ(Normal("NFC", text), composed);
    EXPECT_EQ(Normal("NFKC", text), composed);
  }
  EXPECT_EQ(Normal("NFD", "\uac00\u11a7\uac01"), "\u1100\u1161\u11a7\u1100\u1161\u11a8");
}

TEST(Utf8Test, OnlyWhatMayBecomeACharacterIsHeldBack) {
  EXPECT_EQ(CompleteUtf8Prefix(""), 0u);
  EXPECT_EQ(CompleteUtf8Prefix("abc"), 3u);
  EXPECT_EQ(CompleteUtf8Prefix("a\xc3"), 1u);
  EXPECT_EQ(CompleteUtf8Prefix("a\xc3\xa9"), 3u);
  EXPECT_EQ(CompleteUtf8Prefix("a\xe4\xb8"), 1u);
  EXPECT_EQ(CompleteUtf8Prefix("a\xf0\x9f\x98"), 1u);
  EXPECT_EQ(CompleteUtf8Prefix("a\xf0\x9f\x98\x80"), 5u);
  EXPECT_EQ(CompleteUtf8Prefix("\xe0\x80"), 2u) << "overlong: never valid";
  EXPECT_EQ(CompleteUtf8Prefix("\xed\xa0"), 2u) << "a surrogate: never valid";
  EXPECT_EQ(CompleteUtf8Prefix("a\x80\x80\x80"), 4u);
  EXPECT_EQ(CompleteUtf8Prefix("\xff"), 1u);
}

struct Edit {
  const char* pointer;
  const char* value;
  absl::StatusCode code;
};

TEST(TokenizerTest, UnsupportedConstructsAreNamed) {
  using absl::StatusCode;
  const Edit edits[] = {
      {"/model/type", "\"WordPiece\"", StatusCode::kUnimplemented},
      {"/model/type", "\"Unigram\"", StatusCode::kInvalidArgument},
      {"/model/dropout", "0.1", StatusCode::kUnimplemented},
      {"/model/byte_fallback", "true", StatusCode::kUnimplemented},
      {"/model/end_of_word_suffix", "\"</w>\"", StatusCode::kUnimplemented},
      {"/model/vocab/he", "3", StatusCode::kInvalidArgument},
      {"/model/vocab/he", "-3", StatusCode::kInvalidArgument},
      {"/model/vocab/he", "4294967296", StatusCode::kInvalidArgument},
      {"/model/vocab", "[]", StatusCode::kInvalidArgument},
      {"/model/merges", "[\"x\"]", StatusCode::kInvalidArgument},
      {"/model/merges", "[\"q zz\"]", StatusCode::kInvalidArgument},
      {"/model/merges", "[7]", StatusCode::kInvalidArgument},
      {"/model/unk_token", "\"nothing\"", StatusCode::kInvalidArgument},
      {"/normalizer", "{\"type\": \"Lowercase\"}", StatusCode::kUnimplemented},
      {"/normalizer", "{\"type\": \"Precompiled\"}", StatusCode::kInvalidArgument},
      {"/normalizer", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"?\"}",
       StatusCode::kInvalidArgument},
      // Shorter than its size; a size that is no multiple of 4, that is too large; and texts that
      // are not UTF-8.
      {"/normalizer", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAA\"}",
       StatusCode::kInvalidArgument},
      {"/normalizer", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"BQAAAAAAAAAA\"}",
       StatusCode::kInvalidArgument},
      {"/normalizer", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"DAAAAAAAAAAA\"}",
       StatusCode::kInvalidArgument},
      {"/normalizer", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"BAAAAAAAAAD/\"}",
       StatusCode::kInvalidArgument},
      {"/normalizer", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(\"}, \"content\": \"\"}",
       StatusCode::kInvalidArgument},
      {"/normalizer", "{\"type\": \"Replace\", \"pattern\": {}, \"content\": \"\"}",
       StatusCode::kUnimplemented},
      {"/pre_tokenizer", "null", StatusCode::kUnimplemented},
      {"/pre_tokenizer", "{\"type\": \"Whitespace\"}", StatusCode::kUnimplemented},
      {"/pre_tokenizer", "{\"type\": \"Split\"}", StatusCode::kUnimplemented},
      {"/decoder", "{\"type\": \"WordPiece\"}", StatusCode::kUnimplemented},
      {"/post_processor", "{\"type\": \"BertProcessing\"}", StatusCode::kUnimplemented},
      {"/added_tokens/0/single_word", "true", StatusCode::kUnimplemented},
      {"/added_tokens/0/id", "77", StatusCode::kInvalidArgument},
      {"/added_tokens/0/content", "7", StatusCode::kInvalidArgument},
  };
  const nlohmann::json good =
      nlohmann::json::parse(testing::TinyTokenizerJson(testing::MakeTinyTokenizer(700), false));
  for (const Edit& edit : edits) {
    nlohmann::json document = good;
    document[nlohmann::json::json_pointer(edit.pointer)] = nlohmann::json::parse(edit.value);
    const auto tokenizer = Tokenizer::FromJson(document.dump());
    EXPECT_EQ(tokenizer.status().code(), edit.code) << edit.pointer << " " << tokenizer.status();
  }
  EXPECT_EQ(Tokenizer::FromJson("{").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Tokenizer::FromJson("[]").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Tokenizer::FromJson(std::string(100000, '[')).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(Utf8, InvalidBytesAreReplacedOneByOne) {
  EXPECT_EQ(ReplaceInvalidUtf8(""), "");
  EXPECT_EQ(ReplaceInvalidUtf8("a\u00e9\u4e2d\U0001F600"), "a\u00e9\u4e2d\U0001F600");
  EXPECT_EQ(ReplaceInvalidUtf8("a\xff\xfe.b"), "a\uFFFD\uFFFD.b");
  EXPECT_EQ(ReplaceInvalidUtf8("cut \xe4\xb8"), "cut \uFFFD\uFFFD");
}

}  // namespace
}  // namespace shiftadd
