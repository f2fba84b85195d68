#include "worker/serve/load_retry.h"

#include <gtest/gtest.h>

namespace shiftadd {
namespace {

constexpr absl::Duration kSecond = absl::Seconds(1);

class LoadRetryTest : public ::testing::Test {
 protected:
  // A turn after `pause`: whether it may try `digest`.
  bool TurnAfter(absl::Duration pause, const std::string& digest) {
    now_ += pause;
    retry_.Begin(now_);
    return retry_.May(digest);
  }

  absl::Time now_ = absl::UnixEpoch();
  LoadRetry retry_{kSecond, 3 * kSecond};
};

TEST_F(LoadRetryTest, PausesDoubleUpToTheLongest) {
  EXPECT_EQ(retry_.next(), absl::InfiniteFuture());
  EXPECT_TRUE(TurnAfter(kSecond, "a"));
  for (const int seconds : {1, 2, 3, 3}) {
    EXPECT_EQ(retry_.Failed("a", now_), seconds * kSecond);
    EXPECT_EQ(retry_.next(), now_ + seconds * kSecond);
    EXPECT_FALSE(TurnAfter(absl::ZeroDuration(), "a"));
    EXPECT_TRUE(TurnAfter(seconds * kSecond, "a"));
  }
}

TEST_F(LoadRetryTest, AnotherVersionIsTriedAtOnceAndBeginsAnew) {
  retry_.Failed("a", now_);
  retry_.Failed("a", now_);
  EXPECT_TRUE(TurnAfter(absl::ZeroDuration(), "b"));
  EXPECT_EQ(retry_.Failed("b", now_), kSecond);
  EXPECT_FALSE(TurnAfter(absl::ZeroDuration(), "b"));
  retry_.Served();
  EXPECT_EQ(retry_.next(), absl::InfiniteFuture());
  EXPECT_TRUE(TurnAfter(absl::ZeroDuration(), "b"));
}

TEST_F(LoadRetryTest, ATurnThatTriesNothingIsNotDueAgainAtOnce) {
  retry_.Failed("a", now_);
  // The tag is gone, say, or cannot be asked for: nobody is there to be tried.
  EXPECT_TRUE(TurnAfter(kSecond, "a"));
  EXPECT_GT(retry_.next(), now_);
  EXPECT_FALSE(TurnAfter(absl::ZeroDuration(), "a"));
  EXPECT_TRUE(TurnAfter(retry_.next() - now_, "a"));
}

}  // namespace
}  // namespace shiftadd
