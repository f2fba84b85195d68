// The chat templates inside published GGUF files, rendered as transformers renders them
// (tests/golden/make_real_chats.py). The files are looked for in $SHIFTADD_MODELS, else in
// ~/.cache/shiftadd/models; without any of them the test is skipped.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>

#include "nlohmann/json.hpp"
#include "worker/model/model_source.h"
#include "worker/model/tokenizer.h"

namespace shiftadd {
namespace {

std::filesystem::path Folder() {
  if (const char* folder = std::getenv("SHIFTADD_MODELS"); folder != nullptr) return folder;
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : "/") / ".cache/shiftadd/models";
}

TEST(RealChats, AreRenderedAsTransformersDoes) {
  std::ifstream file(SHIFTADD_SOURCE_DIR "/tests/golden/real_chats.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  std::map<std::string, std::unique_ptr<Tokenizer>> tokenizers;
  int compared = 0;
  for (const auto& c : golden.at("cases")) {
    const std::string name = c.at("file");
    if (!std::filesystem::exists(Folder() / name)) continue;
    std::unique_ptr<Tokenizer>& tokenizer = tokenizers[name];
    if (tokenizer == nullptr) {
      const auto source = ModelSource::Open((Folder() / name).string());
      ASSERT_TRUE(source.ok()) << source.status();
      tokenizer = *Tokenizer::FromJson((*source)->tokenizer_json());
    }
    std::vector<ChatMessage> messages;
    for (const auto& m : c.at("messages")) messages.push_back({m.at("role"), m.at("content")});
    const auto text = tokenizer->RenderChat(messages, c.at("add_generation_prompt"));
    ASSERT_TRUE(text.ok()) << name << ": " << text.status();
    EXPECT_EQ(*text, c.at("rendered").get<std::string>()) << name << c.at("messages").dump();
    ++compared;
  }
  if (compared == 0) GTEST_SKIP() << "none of the files is in " << Folder();
  std::printf("%d chats of %zu files compared\n", compared, tokenizers.size());
}

}  // namespace
}  // namespace shiftadd
