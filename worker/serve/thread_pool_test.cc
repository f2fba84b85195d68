#include "worker/serve/thread_pool.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace shiftadd {
namespace {

class ThreadPoolTest : public testing::TestWithParam<Crowding> {};
INSTANTIATE_TEST_SUITE_P(Crowding, ThreadPoolTest,
                         testing::Values(Crowding::kNever, Crowding::kAlways, Crowding::kWatched));

TEST_P(ThreadPoolTest, EveryItemOnceAndLoopsInOrder) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads, GetParam());
    EXPECT_EQ(pool.threads(), threads);
    EXPECT_GE(pool.slots(), threads);
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
        if (thread < 0 || thread >= pool.slots()) bad_thread = true;
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

TEST_P(ThreadPoolTest, WakesSleepingHelpersAndSleepsForSlowOnes) {
  ThreadPool pool(3, GetParam());
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

// With more busy threads than cores the pool becomes crowded; without them it is not for long. Both
// show in who works: the caller does not in a crowd.
TEST(ThreadPool, NoticesNeighboursAndThatTheyLeft) {
  const int threads = UsableThreads();
  if (threads == 1) GTEST_SKIP() << "one core: a pool of one thread";
  if (access("/proc/thread-self/schedstat", R_OK) != 0) GTEST_SKIP() << "no waits from this kernel";
  ThreadPool pool(threads, Crowding::kWatched);
  std::atomic<int> work{0};
  // Runs programs until one was (or was not) done with more threads than the pool has by itself.
  const auto until = [&](bool crowded) {
    for (;;) {
      std::atomic<bool> extra{false};
      const Loop loop{threads * 64, 1};
      pool.Run({&loop, 1}, [&](int64_t, int64_t, int64_t, int thread) {
        for (int i = 0; i < 30000; ++i) work.fetch_add(1, std::memory_order_relaxed);
        if (thread >= threads) extra = true;
      });
      if (extra == crowded) return;
    }
  };
  std::atomic<bool> stop{false};
  std::vector<std::thread> neighbours;
  for (int i = 0; i < threads * 3; ++i) {
    neighbours.emplace_back([&] {
      while (!stop) {
      }
    });
  }
  until(true);
  stop = true;
  for (std::thread& neighbour : neighbours) neighbour.join();
  until(false);
}

TEST(ThreadPool, IsNotWatchedWithFewerThanAllCores) {
  EXPECT_EQ(DefaultCrowding(UsableThreads() - 1), Crowding::kNever);
}

TEST(ThreadPool, CountsAtLeastOneThread) { EXPECT_GE(UsableThreads(), 1); }

}  // namespace
}  // namespace shiftadd
