// Every kind of tokenizer against Hugging Face's tokenizers: tests/golden/tokenizers.json, or the
// file in the folder SHIFTADD_TOKENIZER_GOLDEN (tests/deep.sh makes a longer one).
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/model/gguf_tokenizer.h"
#include "worker/model/sentencepiece_model.h"
#include "worker/model/tokenizer.h"

namespace shiftadd {
namespace {

using nlohmann::json;

const json& Golden() {
  static const auto* const golden = [] {
    const char* folder = std::getenv("SHIFTADD_TOKENIZER_GOLDEN");
    const std::string path = absl::StrCat(
        folder != nullptr ? folder : SHIFTADD_SOURCE_DIR "/tests/golden", "/tokenizers.json");
    std::ifstream in(path);
    EXPECT_TRUE(in.good()) << path;
    return new json(json::parse(in));
  }();
  return *golden;
}

class TokenizerKindsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    for (const json& one : Golden().at("entries")) {
      if (one.at("name") == GetParam()) golden_ = &one;
    }
    ASSERT_NE(golden_, nullptr);
  }

  // Compares every string, with and without what the post-processor adds; prints the count.
  void Compare(const Tokenizer& tokenizer, const char* source) {
    const json& texts = Golden().at("texts");
    size_t wrong = 0;
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::string text = texts[i];
      const json& c = golden_->at("cases")[i];
      const std::vector<int32_t> found = tokenizer.Encode(text, true, true);
      bool same = found == c[0].get<std::vector<int32_t>>();
      const std::string back = tokenizer.Decode(tokenizer.Encode(text, false, true), false);
      // A text of one token keeps its space (tokenizer.h).
      const bool one = tokenizer.Encode(text, false, true).size() < 2;
      if (c[1] == 1 && !one) same = same && back == text;
      if (same) continue;
      if (++wrong <= 5) {
        ADD_FAILURE() << GetParam() << " from " << source << ": " << json(text) << " expected "
                      << c[0] << " found " << json(found) << ", back "
                      << json(back).dump(-1, ' ', false, json::error_handler_t::replace);
      }
    }
    EXPECT_EQ(wrong, 0u);
    std::printf("%-14s %-16s %zu of %zu strings differ\n", GetParam().c_str(), source, wrong,
                texts.size());
  }

  const json* golden_ = nullptr;
};

TEST_P(TokenizerKindsTest, FromTokenizerJson) {
  const auto tokenizer = Tokenizer::FromJson(golden_->at("tokenizer").dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  Compare(**tokenizer, "tokenizer.json");
}

absl::StatusOr<SentencePieceModel> ModelOf(const json& golden) {
  std::string bytes;
  EXPECT_TRUE(absl::Base64Unescape(golden.at("sentencepiece").get<std::string>(), &bytes));
  return ParseSentencePieceModel(bytes, "tokenizer.model");
}

TEST_P(TokenizerKindsTest, FromTokenizerModel) {
  if (!golden_->contains("sentencepiece")) GTEST_SKIP() << "not of SentencePiece";
  const auto model = ModelOf(*golden_);
  ASSERT_TRUE(model.ok()) << model.status();
  auto document = SentencePieceTokenizerJson(*model, "tokenizer.model");
  ASSERT_TRUE(document.ok()) << document.status();
  (*document)["post_processor"] = BosTemplate("<s>", 1);
  const auto tokenizer = Tokenizer::FromJson(document->dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  Compare(**tokenizer, "tokenizer.model");
}

// What GGUF files say of byte-level BPE: tokens, merges, and how text is cut by a name.
TEST_P(TokenizerKindsTest, FromGgufByName) {
  const std::map<std::string, const char*> names = {
      {"gpt2", "gpt-2"},  {"llama3", "llama-bpe"}, {"qwen2", "qwen2"},
      {"bloom", "bloom"}, {"tekken", "tekken"},    {"deepseek_coder", "deepseek-coder"}};
  const auto name = names.find(GetParam());
  if (name == names.end()) GTEST_SKIP() << "no such name";
  const json& document = golden_->at("tokenizer");
  EXPECT_EQ(*GgufPreTokenizerName(document), name->second);
  std::map<int64_t, std::string> texts;
  for (const auto& [text, id] : document.at("model").at("vocab").items()) texts[id] = text;
  std::map<int64_t, int64_t> kinds;
  for (const json& token : document.at("added_tokens")) {
    texts[token.at("id")] = token.at("content");
    kinds[token.at("id")] = token.at("special") == true ? 3 : 4;
  }
  json tokens = json::array(), types = json::array(), merges = json::array();
  for (const auto& [id, text] : texts) {
    ASSERT_EQ(id, static_cast<int64_t>(tokens.size()));
    tokens.push_back(text);
    types.push_back(kinds.count(id) > 0 ? kinds[id] : 1);
  }
  for (const json& pair : document.at("model").at("merges")) {
    merges.push_back(absl::StrCat(pair[0].get<std::string>(), " ", pair[1].get<std::string>()));
  }
  const json metadata = {{"tokenizer.ggml.model", "gpt2"},
                         {"tokenizer.ggml.pre", name->second},
                         {"tokenizer.ggml.tokens", tokens},
                         {"tokenizer.ggml.token_type", types},
                         {"tokenizer.ggml.merges", merges}};
  ArchitectureSpec spec;
  spec.bos_token = 0;
  const auto json_text = TokenizerJsonFromGguf(GgufMetadata(metadata, "m.gguf"), &spec);
  ASSERT_TRUE(json_text.ok()) << json_text.status();
  const auto tokenizer = Tokenizer::FromJson(*json_text);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  Compare(**tokenizer, "gguf");
}

// Distilled into Qwen's vocabulary, without its normal form; LLaMA-3's form with all its merges.
TEST(GgufTokenizerTest, NamesOfRelatives) {
  json document;
  for (const json& one : Golden().at("entries")) {
    if (one.at("name") == "qwen2") document = one.at("tokenizer");
  }
  EXPECT_EQ(*GgufPreTokenizerName(document), "qwen2");
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
  EXPECT_EQ(*GgufPreTokenizerName(document), "deepseek-r1-qwen");
  document["normalizer"] = {{"type", "NFD"}};
  EXPECT_EQ(GgufPreTokenizerName(document).status().code(), absl::StatusCode::kUnimplemented);
  for (const json& one : Golden().at("entries")) {
    if (one.at("name") == "llama3") document = one.at("tokenizer");
  }
  document["model"]["ignore_merges"] = false;
  EXPECT_EQ(*GgufPreTokenizerName(document), "smaug-bpe");
}

TEST_P(TokenizerKindsTest, FromGguf) {
  if (!golden_->contains("sentencepiece")) GTEST_SKIP() << "not of SentencePiece";
  const auto model = ModelOf(*golden_);
  ASSERT_TRUE(model.ok()) << model.status();
  json tokens = json::array(), scores = json::array(), types = json::array();
  for (const SentencePieceModel::Piece& piece : model->pieces) {
    tokens.push_back(piece.text);
    scores.push_back(piece.score);
    types.push_back(static_cast<int64_t>(piece.type));
  }
  json metadata = {{"tokenizer.ggml.model", model->bpe ? "llama" : "t5"},
                   {"tokenizer.ggml.tokens", tokens},
                   {"tokenizer.ggml.scores", scores},
                   {"tokenizer.ggml.token_type", types},
                   {"tokenizer.ggml.add_bos_token", true},
                   {"tokenizer.ggml.remove_extra_whitespaces", model->folds_spaces},
                   {"tokenizer.ggml.add_space_prefix", model->add_space_prefix}};
  json& map = metadata["tokenizer.ggml.precompiled_charsmap"] = json::array();
  for (const char c : model->character_map) map.push_back(static_cast<uint8_t>(c));
  ArchitectureSpec spec;
  spec.bos_token = 1;
  const auto document = TokenizerJsonFromGguf(GgufMetadata(metadata, "m.gguf"), &spec);
  ASSERT_TRUE(document.ok()) << document.status();
  EXPECT_TRUE(spec.add_bos);
  const auto tokenizer = Tokenizer::FromJson(*document);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  Compare(**tokenizer, "gguf");
}

TEST_P(TokenizerKindsTest, BrokenUtf8GoesThrough) {
  const auto tokenizer = Tokenizer::FromJson(golden_->at("tokenizer").dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const char* text : {"\xff", "a\xc3", "\xe2\x96 x", "\xf0\x9f\x98"}) {
    for (const int32_t id : (*tokenizer)->Encode(text, true, true)) {
      EXPECT_GE(id, 0);
      EXPECT_LT(id, (*tokenizer)->vocab_size());
    }
  }
}

// Ids and texts as tokenizers 0.23.3 has them.
TEST(AddedTokensTest, InNormalFormAreDecodedWithTheSpaceThatWentIntoThem) {
  json document;
  for (const json& one : Golden().at("entries")) {
    if (one.at("name") == "llama2_old") document = one.at("tokenizer");
  }
  document["shiftadd"] = {{"chat_template", "{{ bos_token }}x"}, {"bos", 1}, {"eos", {2}}};
  const auto tokenizer = Tokenizer::FromJson(document.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::map<std::string, std::vector<int32_t>> expected = {
      {"a <s> b", {260, 1, 269}}, {"<s>a", {1, 520}}, {"x  <unk> y", {450, 517, 0, 517, 536}}};
  for (const auto& [text, ids] : expected) {
    EXPECT_EQ((*tokenizer)->Encode(text, false, true), ids) << text;
    EXPECT_EQ((*tokenizer)->Decode(ids, false), text);
  }
  // A template that names it wants the token alone.
  EXPECT_EQ((*tokenizer)->RenderChat({}, false, {}).value(), "<s>x");
}

TEST(SentencePieceModelTest, BrokenFilesAreErrors) {
  for (const json& one : Golden().at("entries")) {
    if (!one.contains("sentencepiece")) continue;
    std::string bytes;
    ASSERT_TRUE(absl::Base64Unescape(one.at("sentencepiece").get<std::string>(), &bytes));
    for (size_t n = 0; n < bytes.size(); n += 97) {
      const auto model = ParseSentencePieceModel(bytes.substr(0, n), "t.model");
      if (model.ok()) SentencePieceTokenizerJson(*model, "t.model").status().IgnoreError();
    }
    for (size_t i = 0; i < bytes.size(); i += 131) {
      std::string wrong = bytes;
      wrong[i] = static_cast<char>(wrong[i] ^ 0x55);
      const auto model = ParseSentencePieceModel(wrong, "t.model");
      if (!model.ok()) continue;
      const auto document = SentencePieceTokenizerJson(*model, "t.model");
      if (!document.ok()) continue;
      const auto tokenizer = Tokenizer::FromJson(document->dump());
      if (tokenizer.ok()) (*tokenizer)->Encode("\uFF21\u0301 caf\u00e9\r\n  x ", true, true);
    }
  }
  EXPECT_EQ(ParseSentencePieceModel("", "t.model").status().code(),
            absl::StatusCode::kInvalidArgument);
}

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const json& one : Golden().at("entries")) names.push_back(one.at("name"));
  return names;
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerKindsTest, ::testing::ValuesIn(Names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shiftadd
