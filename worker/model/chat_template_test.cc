#include "worker/model/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "nlohmann/json.hpp"

namespace shiftadd {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;

std::string Rendered(const std::string& jinja, const ordered_json& variables = {}) {
  const auto program = jinja::Template::Parse(jinja);
  if (!program.ok()) return program.status().ToString();
  const jinja::Value values =
      jinja::Value::FromJson(variables.is_object() ? variables : ordered_json::object());
  const auto text = (*program)->Render(*values.dict(), absl::UnixEpoch());
  return text.ok() ? *text : text.status().ToString();
}

// What Jinja itself made of the same programs and messages (tests/golden/make_chat_templates.py).
TEST(ChatTemplate, RendersAsJinjaDoes) {
  std::ifstream file(SHIFTADD_SOURCE_DIR "/tests/golden/chat_templates.json");
  const ordered_json golden = ordered_json::parse(file);
  int rendered = 0, refused = 0;
  for (const auto& c : golden.at("cases")) {
    const std::string name = c.at("template");
    const auto program = jinja::Template::Parse(golden.at("templates").at(name).get<std::string>());
    ASSERT_TRUE(program.ok()) << name << ": " << program.status();
    const jinja::Value variables = jinja::Value::FromJson(c.at("variables"));
    const auto text = (*program)->Render(*variables.dict(),
                                         absl::FromUnixSeconds(golden.at("now").get<int64_t>()));
    if (c.contains("refused")) {
      ++refused;
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << name;
      EXPECT_EQ(text.status().message(),
                "the chat template refuses: " + c.at("refused").get<std::string>());
      continue;
    }
    ++rendered;
    ASSERT_TRUE(text.ok()) << name << ": " << text.status();
    EXPECT_EQ(*text, c.at("rendered").get<std::string>()) << name << c.at("variables").dump();
  }
  EXPECT_GE(rendered, 100);
  EXPECT_GE(refused, 8);
}

TEST(ChatTemplate, TheOlderGoldenChatsAreEqual) {
  std::ifstream file(SHIFTADD_SOURCE_DIR "/tests/golden/chats.json");
  const ordered_json golden = ordered_json::parse(file);
  for (const auto& c : golden.at("cases")) {
    const auto program = ChatTemplate::Parse(
        golden.at("templates").at(c.at("name").get<std::string>()).get<std::string>());
    ASSERT_TRUE(program.ok()) << program.status();
    std::vector<ChatMessage> messages;
    for (const auto& m : c.at("messages")) messages.push_back({m.at("role"), m.at("content")});
    const auto text = program->Render(messages, c.at("add_generation_prompt"),
                                      {{"bos_token", golden.at("bos")}}, absl::UnixEpoch());
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, c.at("rendered").get<std::string>()) << c.at("name");
  }
}

TEST(ChatTemplate, TakesVariablesThatOverrideNothing) {
  const auto program = ChatTemplate::Parse(
      "{{ bos_token }}{{ messages[0].content }}{% if think is defined and think %}!{% endif %}");
  ASSERT_TRUE(program.ok()) << program.status();
  const auto render = [&](const ordered_json& variables) {
    return program->Render({{"user", "hi"}}, true, {{"bos_token", "<s>"}}, absl::UnixEpoch(),
                           variables);
  };
  EXPECT_EQ(render(nullptr).value(), "<s>hi");
  EXPECT_EQ(render({{"think", false}}).value(), "<s>hi");
  EXPECT_EQ(render({{"think", true}}).value(), "<s>hi!");
  EXPECT_EQ(render({{"bos_token", "x"}, {"messages", 5}}).value(), "<s>hi");
}

TEST(ChatTemplate, NamesWhatItDoesNotKnow) {
  const struct {
    const char* jinja;
    const char* says;
  } rows[] = {
      {"{% include 'x' %}", "line 1: the statement 'include'"},
      {"a\n{{ x | wordwrap }}", "line 2: the filter 'wordwrap'"},
      {"{% if x is escaped %}{% endif %}", "the test 'escaped'"},
      {"{% for a in b recursive %}{% endfor %}", "recursive"},
      {"{{ f(*x) }}", "unpacking"},
      {"{{ lipsum() }}", "the function 'lipsum'"},
      {"{{ 'x'.format(1) }}", "the method 'format' of a value of type str"},
      {"{{ ''.__class__.__mro__ }}", "'__mro__' is asked of something that is not defined"},
      {"{{ [1].append(2) }}", "the method 'append' of a value of type list"},
      {"{{ [1] | map('nonsense') | list }}", "the filter 'nonsense'"},
      {"{% set a, b = 1, 2 %}", "several names"},
  };
  for (const auto& row : rows) EXPECT_THAT(Rendered(row.jinja), HasSubstr(row.says)) << row.jinja;
  const auto parsed = ChatTemplate::Parse("{% include 'x' %}");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ChatTemplate, SaysWhatIsWrongAndWhere) {
  const struct {
    const char* jinja;
    const char* says;
  } rows[] = {
      {"{{", "a tag has no end"},
      {"{% for", "a tag has no end"},
      {"{{ 'a", "a string has no end"},
      {"{# x", "a comment has no end"},
      {"{%-", "a tag has no end"},
      {"{{ '\\", "a string has no end"},
      {"{{ }}", "expected a value"},
      {"{{ 1 2 }}", "expected }}"},
      {"{{ a ? }}", "'?' is not expected"},
      {"{{ ) }}", "closes nothing"},
      {"{% if x %}", "expected {% endif %}"},
      {"{% endif %}", "the statement 'endif'"},
      {"{% break %}", "outside of a loop"},
      {"\n\n{{ nothing.at.all }}", "chat template: line 3: 'at' is asked of"},
      {"{{ 1 + 'a' }}", "'+' does not take"},
      {"{{ x + 'a' }}", "not defined"},
      {"{{ 1 / 0 }}", "division by zero"},
      {"{{ 1 < 'a' }}", "no order"},
      {"{% for x in 5 %}{% endfor %}", "cannot be iterated"},
      {"{% set d = {} %}{% set d.x = 1 %}", "no namespace"},
      {"{% set n = namespace() %}{% set n.x = [n] %}", "holds a namespace"},
      {"{{ 9223372036854775807 + 1 }}", "too large"},
  };
  for (const auto& row : rows) EXPECT_THAT(Rendered(row.jinja), HasSubstr(row.says)) << row.jinja;
}

TEST(ChatTemplate, EndsWhateverTheProgramDoes) {
  const std::string loop = "{% for a in range(99999) %}";
  const std::string end = "{% endfor %}";
  EXPECT_THAT(Rendered(loop + loop + end + end), HasSubstr("does not end"));
  EXPECT_THAT(Rendered("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), HasSubstr("too deeply"));
  EXPECT_THAT(Rendered("{{ 'x' * 99999999999 }}"), HasSubstr("too long"));
  EXPECT_THAT(Rendered(loop + "{{ 'x' * 10000 }}" + end), HasSubstr("too much"));
  EXPECT_THAT(Rendered("{{ range(999999999) }}"), HasSubstr("too long"));
  EXPECT_THAT(Rendered("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"),
              HasSubstr("too deeply"));
  EXPECT_THAT(Rendered("{{ " + std::string(5000, '-') + "1 }}"), HasSubstr("too deeply"));
  std::string nots;
  for (int i = 0; i < 5000; ++i) nots += "not ";
  EXPECT_THAT(Rendered("{{ " + nots + "1 }}"), HasSubstr("too deeply"));
  std::string ifs;
  for (int i = 0; i < 5000; ++i) ifs += "{% if 1 %}";
  EXPECT_THAT(Rendered(ifs), HasSubstr("too deeply"));
  std::string nest = "{% set x = [] %}";
  for (int i = 0; i < 200; ++i) nest += "{% set x = [x] %}";
  EXPECT_THAT(Rendered(nest), HasSubstr("too deeply"));
}

// No text makes the reader or a run fall over.
TEST(ChatTemplate, BrokenProgramsAreErrorsOnly) {
  std::ifstream file(SHIFTADD_SOURCE_DIR "/tests/golden/chat_templates.json");
  const ordered_json golden = ordered_json::parse(file);
  const ordered_json variables = golden.at("cases")[3].at("variables");
  uint32_t random = 1;
  const auto next = [&random](size_t below) {
    random = random * 1664525u + 1013904223u;
    return static_cast<size_t>(random >> 8) % below;
  };
  for (const auto& [name, text] : golden.at("templates").items()) {
    for (int round = 0; round < 60; ++round) {
      std::string broken = text.get<std::string>();
      for (int change = 0; change < 3; ++change) {
        const size_t at = next(broken.size());
        if (next(2) == 0) {
          broken.erase(at, next(20) + 1);
        } else {
          broken.insert(at, broken.substr(next(broken.size()), next(20) + 1));
        }
      }
      Rendered(broken, variables);
    }
  }
}

}  // namespace
}  // namespace shiftadd
