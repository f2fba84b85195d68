#include "worker/serve/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <vector>

namespace shiftadd {
namespace {

TEST(ThreadPool, EveryItemOnceAndLoopsInOrder) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    // Many programs of different sizes, empty loops among them, so that late helpers meet new ones.
    for (int round = 0; round < 1000; ++round) {
      std::vector<Loop> loops;
      std::vector<std::vector<std::atomic<int>>> hits;
      for (int i = 0; i < round % 6; ++i) {
        loops.push_back({(round + i * 29) % 67, 1 + (round + i) % 5});
        hits.emplace_back(loops.back().items);
      }
      std::atomic<int64_t> done{0};
      std::atomic<bool> bad_thread{false}, early{false};
      pool.Run(loops, [&](int64_t loop, int64_t begin, int64_t end, int thread) {
        if (thread < 0 || thread >= threads) bad_thread = true;
        int64_t before = 0;
        for (int64_t i = 0; i < loop; ++i) before += loops[i].items;
        if (done < before) early = true;
        for (int64_t i = begin; i < end; ++i) ++hits[loop][i];
        done += end - begin;
      });
      EXPECT_FALSE(bad_thread);
      EXPECT_FALSE(early);
      for (const auto& loop : hits) {
        for (const auto& hit : loop) ASSERT_EQ(hit, 1);
      }
    }
  }
}

TEST(ThreadPool, WakesSleepingHelpersAndSleepsForSlowOnes) {
  ThreadPool pool(3);
  const std::vector<Loop> loops = {{6, 1}, {1, 1}, {3, 1}};
  for (int round = 0; round < 5; ++round) {
    // Long enough for the helpers to fall asleep, and for the caller to do so at the end.
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> done{0};
    pool.Run(loops, [&](int64_t, int64_t, int64_t, int thread) {
      std::this_thread::sleep_for(std::chrono::milliseconds(thread == 0 ? 1 : 4));
      ++done;
    });
    EXPECT_EQ(done, 10);
  }
}

TEST(ThreadPool, CountsAtLeastOneThread) { EXPECT_GE(UsableThreads(), 1); }

}  // namespace
}  // namespace shiftadd
