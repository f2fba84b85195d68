#include "services/base/logging.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "services/base/call_notes.h"

namespace shiftadd {
namespace {

using nlohmann::json;

// What `work` logs as JSON, line by line.
template <typename Work>
std::vector<json> Logged(const Work& work) {
  ::testing::internal::CaptureStderr();
  InitLogging("tester", "info", "json");
  work();
  spdlog::default_logger()->flush();
  const std::string text = ::testing::internal::GetCapturedStderr();
  std::vector<json> lines;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    lines.push_back(json::parse(std::string(line), nullptr, false));
    EXPECT_TRUE(lines.back().is_object()) << line;
  }
  return lines;
}

TEST(Logging, JsonIsAnObjectALine) {
  const auto lines = Logged([] {
    spdlog::info("two\nlines, a \"quote\" and {}", "\xff no UTF-8");
    spdlog::debug("not shown");
    spdlog::warn("second");
  });
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["level"], "info");
  EXPECT_EQ(lines[0]["process"], "tester");
  EXPECT_EQ(lines[0]["message"], "two\nlines, a \"quote\" and \xEF\xBF\xBD no UTF-8");
  EXPECT_EQ(lines[0]["time"].get<std::string>().size(), sizeof("2026-01-01T00:00:00.000Z") - 1);
  EXPECT_EQ(lines[1]["level"], "warning");
}

TEST(Logging, FieldsAreThoseOfTheThreadsScopes) {
  const auto lines = Logged([] {
    const LogScope job(LogFields{{"job", "job-1"}});
    {
      const LogScope task(LogFields{{"task", "task-1"}, {"epoch", "3"}});
      spdlog::info("inside");
      std::thread([] { spdlog::info("elsewhere"); }).join();
      const LogScope other(LogFields{{"job", "job-2"}});
      spdlog::info("the inner wins");
    }
    spdlog::info("outside");
  });
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["job"], "job-1");
  EXPECT_EQ(lines[0]["task"], "task-1");
  EXPECT_EQ(lines[0]["epoch"], "3");
  EXPECT_FALSE(lines[1].contains("job"));
  EXPECT_EQ(lines[2]["job"], "job-2");
  EXPECT_EQ(lines[3]["job"], "job-1");
  EXPECT_FALSE(lines[3].contains("task"));
}

TEST(Logging, NotesLastAsLongAsTheirCall) {
  const auto lines = Logged([] {
    NoteInCall({{"job", "of no call"}});
    {
      const CallNotes call;
      {
        const LogScope inner(LogFields{{"task", "task-1"}});
        NoteInCall({{"job", "job-1"}});
      }
      spdlog::info("the answer");
      std::thread([] { spdlog::info("elsewhere"); }).join();
    }
    spdlog::info("outside");
  });
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["job"], "job-1");
  EXPECT_FALSE(lines[0].contains("task"));
  EXPECT_FALSE(lines[1].contains("job"));
  EXPECT_FALSE(lines[2].contains("job"));
}

TEST(Logging, Text) {
  ::testing::internal::CaptureStderr();
  InitLogging("tester", "warn");
  spdlog::info("not shown");
  spdlog::warn("plain");
  spdlog::warn("{} is not there", "x\n2026-01-01T00:00:00.000 I tester audit: by=admin\x1b[A");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("not shown"), std::string::npos);
  EXPECT_NE(text.find(" W tester plain\n"), std::string::npos) << text;
  // Nobody adds lines by what is quoted of him.
  EXPECT_NE(
      text.find(" W tester x\\n2026-01-01T00:00:00.000 I tester audit: by=admin\\x1b[A is not "
                "there\n"),
      std::string::npos)
      << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
}

}  // namespace
}  // namespace shiftadd
