#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "services/base/clock.h"
#include "services/base/digest.h"
#include "services/base/fail_point.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

TEST(Digest, MatchesTheStandardsVector) {
  const std::string expected =
      "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  EXPECT_EQ(Sha256Digest("abc"), expected);
  Sha256 hash;
  hash.Update("a", 1);
  hash.Update("bc", 2);
  EXPECT_EQ(hash.Finish(), expected);
  EXPECT_TRUE(ValidateDigest(expected).ok());
}

TEST(Digest, RejectsWhatIsNotOne) {
  for (const std::string& bad :
       {std::string(), std::string("abc"), std::string("sha256:"), "sha256:" + std::string(64, 'A'),
        "sha256:" + std::string(63, 'a'), "sha512:" + std::string(64, 'a'),
        "sha256:../" + std::string(61, 'a')}) {
    EXPECT_EQ(ValidateDigest(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(Ids, AreDistinct) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(seen.insert(NewId("job")).second);
}

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return absl::InvalidArgumentError("odd");
  return x / 2;
}
absl::StatusOr<int> Quarter(int x) {
  SA_ASSIGN_OR_RETURN(const int half, Half(x));
  SA_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

TEST(StatusMacros, ReturnEarly) {
  EXPECT_EQ(Quarter(8).value(), 2);
  EXPECT_EQ(Quarter(6).status().message(), "odd");
  EXPECT_EQ(Annotate(Quarter(6).status(), "x").message(), "x: odd");
}

TEST(FailPoint, IsParsed) {
  const auto points = ParseFailPoints("a.before:1:kill,b:20:stop,c:3:fail,");
  ASSERT_TRUE(points.ok()) << points.status();
  ASSERT_EQ(points->size(), 3u);
  EXPECT_EQ(points->at("a.before").nth, 1u);
  EXPECT_EQ(points->at("a.before").kind, FailAction::kKill);
  EXPECT_EQ(points->at("b").nth, 20u);
  EXPECT_EQ(points->at("b").kind, FailAction::kStop);
  EXPECT_EQ(points->at("c").kind, FailAction::kFail);
  for (const char* faulty :
       {"a", "a:1", "a:0:kill", "a:x:kill", ":1:kill", "a:1:die", "a:1:kill:"}) {
    const absl::Status status = ParseFailPoints(faulty).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << faulty;
    EXPECT_NE(status.message().find(faulty), std::string::npos) << status;
  }
}

TEST(FailPoint, KillsAtTheTimeThatWasAsked) {
  const auto reach = [] {
    setenv("SHIFTADD_FAIL_POINT", "here:2:kill", 1);
    ReachFailPoint("elsewhere");
    ReachFailPoint("elsewhere");
    ReachFailPoint("here");
    std::fprintf(stderr, "alive after the first\n");
    ReachFailPoint("here");
    std::fprintf(stderr, "alive after the second\n");
  };
  EXPECT_EXIT(reach(), ::testing::KilledBySignal(SIGKILL),
              "^alive after the first\nfail point here: kill\n$");
}

TEST(FailPoint, BreaksFromTheTimeThatWasAsked) {
  const auto reach = [] {
    setenv("SHIFTADD_FAIL_POINT", "here:2:fail", 1);
    for (const char* point : {"here", "elsewhere", "here", "here"})
      std::fprintf(stderr, "%s %d\n", point, ReachFailPoint(point));
    std::exit(0);
  };
  EXPECT_EXIT(reach(), ::testing::ExitedWithCode(0),
              "^here 0\nelsewhere 0\nfail point here: fail\nhere 1\nhere 1\n$");
}

TEST(FakeClock, MovesOnlyWhenTold) {
  FakeClock clock;
  const absl::Time start = clock.Now();
  clock.Advance(absl::Seconds(5));
  EXPECT_EQ(clock.Now() - start, absl::Seconds(5));
}

}  // namespace
}  // namespace shiftadd
