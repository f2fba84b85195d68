#include "worker/serve/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <vector>

namespace shiftadd {
namespace {

TEST(ThreadPool, EveryItemOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    // Many loops of different sizes, so that late helpers meet new loops.
    for (int round = 0; round < 2000; ++round) {
      const int64_t items = round % 67;
      std::vector<std::atomic<int>> hits(items);
      std::atomic<bool> bad_thread{false};
      pool.For(items, 1 + round % 5, [&](int64_t begin, int64_t end, int thread) {
        if (thread < 0 || thread >= threads) bad_thread = true;
        for (int64_t i = begin; i < end; ++i) ++hits[i];
      });
      EXPECT_FALSE(bad_thread);
      for (const auto& hit : hits) ASSERT_EQ(hit, 1);
    }
  }
}

TEST(ThreadPool, WakesSleepingHelpersAndSleepsForSlowOnes) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    // Long enough for the helpers to fall asleep, and for the caller to do so at the end.
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> done{0};
    pool.For(6, 1, [&](int64_t, int64_t, int thread) {
      std::this_thread::sleep_for(std::chrono::milliseconds(thread == 0 ? 1 : 4));
      ++done;
    });
    EXPECT_EQ(done, 6);
  }
}

TEST(ThreadPool, CountsAtLeastOneThread) { EXPECT_GE(UsableThreads(), 1); }

}  // namespace
}  // namespace shiftadd
