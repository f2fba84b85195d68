#include "worker/serve/model_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/time/clock.h"

namespace shiftadd {
namespace {

using ::testing::HasSubstr;

ModelPtr Version(const std::string& digest) {
  auto version = std::make_shared<ModelVersion>();
  version->served.name = "tiny:v1";
  version->served.digest = digest;
  return version;
}

bool There() { return true; }

TEST(ModelRegistry, WhoAsksWhileAVersionIsReplacedGetsTheNext) {
  ModelRegistry registry;
  registry.Put(Version("old"));
  EXPECT_EQ((*registry.Find("tiny", There))->served.digest, "old");
  registry.Take("tiny:v1");
  std::atomic<bool> asked{false};
  absl::StatusOr<ModelPtr> found;
  std::thread waiting([&] { found = registry.Find("tiny:v1", [&] { return asked = true; }); });
  while (!asked) absl::SleepFor(absl::Milliseconds(5));
  registry.Note("tiny:v1", "loading", "");  // goes on
  registry.Put(Version("new"));
  waiting.join();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)->served.digest, "new");
}

TEST(ModelRegistry, AClientThatLeavesWaitsNoMore) {
  ModelRegistry registry;
  registry.Put(Version("old"));
  registry.Take("tiny:v1");
  EXPECT_EQ(registry.Find("tiny", [] { return false; }).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(ModelRegistry, WhereNothingCouldBeLoadedNobodyWaits) {
  ModelRegistry registry;
  registry.Put(Version("old"));
  registry.Take("tiny:v1");
  std::atomic<bool> asked{false};
  absl::Status found;
  std::thread waiting(
      [&] { found = registry.Find("tiny:v1", [&] { return asked = true; }).status(); });
  while (!asked) absl::SleepFor(absl::Milliseconds(5));
  registry.Note("tiny:v1", "waiting", "version x is damaged");
  waiting.join();
  EXPECT_EQ(found.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(found.message()), HasSubstr("version x is damaged"));
  EXPECT_EQ(registry.Find("tiny:v1", There).status(), found);
  // The next try is waited for again.
  EXPECT_EQ(registry.Take("tiny:v1"), nullptr);
  EXPECT_EQ(registry.Find("tiny", [] { return false; }).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace shiftadd
