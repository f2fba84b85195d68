#include "worker/model/added_tokens.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace shiftadd {
namespace {

// Tokens as "[id]", what lies between as it is.
std::string Cut(const AddedTokenMatcher& matcher, absl::string_view text, bool with_special) {
  std::string out;
  matcher.Scan(
      text, with_special,
      [&](absl::string_view part) {
        EXPECT_FALSE(part.empty());
        out.append(part.data(), part.size());
      },
      [&](int32_t id) { out += "[" + std::to_string(id) + "]"; });
  return out;
}

// The same place by place, as it is defined.
std::string CutSlowly(const std::vector<AddedToken>& tokens, absl::string_view text,
                      bool with_special) {
  std::string out;
  while (!text.empty()) {
    const AddedToken* longest = nullptr;
    for (const AddedToken& token : tokens) {
      if (token.special && !with_special) continue;
      if (text.substr(0, token.content.size()) != token.content) continue;
      if (longest == nullptr || token.content.size() > longest->content.size()) longest = &token;
    }
    if (longest == nullptr) {
      out += text.front();
      text.remove_prefix(1);
    } else {
      out += "[" + std::to_string(longest->id) + "]";
      text.remove_prefix(longest->content.size());
    }
  }
  return out;
}

std::string Letters(std::mt19937* random, size_t size) {
  std::string out;
  while (out.size() < size) out += static_cast<char>('a' + (*random)() % 2);
  return out;
}

TEST(AddedTokensTest, TheLeftmostAndThenLongestIsTaken) {
  std::mt19937 random(11);
  for (int round = 0; round < 3000; ++round) {
    std::vector<AddedToken> tokens(1 + random() % 12);
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i].id = static_cast<int32_t>(i);
      tokens[i].content = Letters(&random, 1 + random() % 6);  // some twice
      tokens[i].special = random() % 3 == 0;
    }
    const AddedTokenMatcher matcher(tokens);
    const std::string text = Letters(&random, random() % 40);
    for (const bool special : {false, true}) {
      ASSERT_EQ(Cut(matcher, text, special), CutSlowly(tokens, text, special))
          << "round " << round << ", text " << text;
    }
  }
}

TEST(AddedTokensTest, TokensLieAcrossThePartsOfALongText) {
  std::vector<AddedToken> tokens(3);
  const std::string contents[] = {"<a>", "<abcdefghijklmn>", "<"};
  for (size_t i = 0; i < 3; ++i) {
    tokens[i].id = static_cast<int32_t>(i);
    tokens[i].content = contents[i];
  }
  const AddedTokenMatcher matcher(tokens);
  std::string text, expected;
  std::mt19937 random(12);
  while (text.size() < 400'000) {
    const size_t i = random() % 4;
    text += i < 3 ? contents[i] : "text";
    expected += i < 3 ? "[" + std::to_string(i) + "]" : "text";
  }
  EXPECT_EQ(Cut(matcher, text, true), expected);
}

// Were each place tried by itself, this would take an hour.
TEST(AddedTokensTest, LongTokensThatAllButStandThereTakeNoTime) {
  constexpr size_t kSize = 500'000;
  std::vector<AddedToken> tokens(2);
  tokens[0].content = "<";
  tokens[1].id = 1;
  tokens[1].content = std::string(kSize, '<') + ">";
  const AddedTokenMatcher matcher(tokens);
  const auto count = [&](const std::string& text) {
    size_t found = 0;
    matcher.Scan(
        text, true, [](absl::string_view) {}, [&](int32_t) { ++found; });
    return found;
  };
  EXPECT_EQ(count(std::string(2 * kSize, '<')), 2 * kSize);
  EXPECT_EQ(count(std::string(2 * kSize, '<') + ">"), kSize + 1);
}

}  // namespace
}  // namespace shiftadd
