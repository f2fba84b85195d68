// Measurements end with whoever asked for them.
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/cluster.h"
#include "tests/serving.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr int kBusyTicks = 50;  // of CPU time, half a second: it measures

// The fields of /proc/PID/stat behind the program's name, which is in brackets: the state is the
// first of them. Empty: there is no such process.
std::vector<std::string> Stat(pid_t pid) {
  const std::string text = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  std::istringstream in(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  std::vector<std::string> fields;
  for (std::string field; in >> field;) fields.push_back(field);
  return fields;
}

bool Lives(pid_t pid) {
  const std::vector<std::string> stat = Stat(pid);
  return !stat.empty() && stat[0] != "Z" && stat[0] != "X";
}

bool Measures(pid_t pid) {
  const std::vector<std::string> stat = Stat(pid);
  return stat.size() > 12 && std::stol(stat[11]) + std::stol(stat[12]) >= kBusyTicks;
}

// The first child; 0 while there is none.
pid_t ChildOf(pid_t pid) {
  pid_t child = 0;
  std::istringstream(ReadFile(absl::StrCat("/proc/", pid, "/task/", pid, "/children"))) >> child;
  return child;
}

// False if it is still false at the end of the patience.
bool Await(const std::function<bool()>& holds) {
  for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;
       absl::SleepFor(absl::Milliseconds(20))) {
    if (holds()) return true;
  }
  return false;
}

class BenchEndTest : public ::testing::TestWithParam<int> {
 protected:
  std::string Log() const { return serving_.dir() + "/bench.log"; }
  // The end of a program that measures and is signalled.
  void ExpectEnd(const std::vector<std::string>& argv) {
    Process bench(argv, Log());
    const pid_t pid = bench.pid();
    ASSERT_TRUE(Await([pid] { return Measures(pid); })) << ReadFile(Log());
    bench.Signal(GetParam());
    EXPECT_EQ(bench.Wait(kPatience), 128 + GetParam()) << ReadFile(Log());
  }
  const std::vector<std::string> length_ = {"--bench-context", "16", "--bench-seconds", "600"};
  Serving serving_;
};

TEST_P(BenchEndTest, OfThePackage) {
  serving_.Publish("tiny:live", 1);
  std::vector<std::string> argv = {
      Binary("shiftadd-server"),   "--package", "tiny:live", "--packager",
      serving_.packager_address(), "--bench"};
  argv.insert(argv.end(), length_.begin(), length_.end());
  ExpectEnd(argv);
}

TEST_P(BenchEndTest, OfTheSource) {
  const std::string source = serving_.dir() + "/source";
  ASSERT_TRUE(WriteTinyLlamaDirectory(source, {}).ok());
  std::vector<std::string> argv = {Binary("shiftadd-worker"), "--bench", source};
  argv.insert(argv.end(), length_.begin(), length_.end());
  ExpectEnd(argv);
}

TEST_P(BenchEndTest, OfTheCommandEndsWhatItStarted) {
  serving_.Publish("tiny:live", 1);
  Process bench(
      {Binary("shiftadd"), "bench", "tiny:live", "--packager", serving_.packager_address(),
       "--blobs", serving_.dir() + "/store", "--no-source", "--seconds", "600"},
      Log());
  pid_t child = 0;
  ASSERT_TRUE(Await([&] { return (child = ChildOf(bench.pid())) > 0 && Measures(child); }))
      << ReadFile(Log());
  bench.Signal(GetParam());
  EXPECT_EQ(bench.Wait(kPatience), 128 + GetParam()) << ReadFile(Log());
  const bool ended = Await([child] { return !Lives(child); });
  EXPECT_TRUE(ended);
  if (!ended) kill(child, SIGKILL);
}

INSTANTIATE_TEST_SUITE_P(Signals, BenchEndTest, ::testing::Values(SIGINT, SIGTERM, SIGKILL),
                         [](const auto& info) {
                           return std::string(info.param == SIGINT    ? "Interrupt"
                                              : info.param == SIGTERM ? "Terminate"
                                                                      : "Kill");
                         });

}  // namespace
}  // namespace shiftadd::testing
