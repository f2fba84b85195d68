#include "worker/serve/crowd_watch.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <thread>

namespace shiftadd {
namespace {

constexpr int64_t kMillisecond = 1'000'000;

int64_t Nanoseconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

TEST(CrowdWatch, WaitsDecideAndAreLookedAtAnew) {
  CrowdWatch watch(2);
  // Nothing is decided before a window is full.
  EXPECT_FALSE(watch.Add(CrowdWatch::kWindow - 1));
  EXPECT_TRUE(watch.Add(1));
  int64_t waited = 1000 * kMillisecond;  // of before the first window
  watch.Decide(0);
  EXPECT_FALSE(watch.crowded());
  EXPECT_TRUE(watch.Add(CrowdWatch::kWindow));
  watch.Decide(waited);
  EXPECT_TRUE(watch.crowded());
  EXPECT_FALSE(watch.Add(CrowdWatch::kStay - 1));
  EXPECT_TRUE(watch.Add(1));
  // Whatever they waited in the crowd: a look without it comes first.
  waited += 800 * kMillisecond;
  watch.Decide(waited);
  EXPECT_FALSE(watch.crowded());
  // 34 and then 35 % of two threads' window.
  EXPECT_TRUE(watch.Add(CrowdWatch::kWindow));
  waited += CrowdWatch::kWindow * 2 * 34 / 100;
  watch.Decide(waited);
  EXPECT_FALSE(watch.crowded());
  EXPECT_TRUE(watch.Add(CrowdWatch::kWindow));
  waited += CrowdWatch::kWindow * 2 * 35 / 100;
  watch.Decide(waited);
  EXPECT_TRUE(watch.crowded());
}

TEST(CrowdWatch, StaysTenTimesAsLongAsItLooked) {
  CrowdWatch watch(2);
  EXPECT_TRUE(watch.Add(3 * CrowdWatch::kStay));
  watch.Decide(CrowdWatch::kStay * 3);
  EXPECT_TRUE(watch.crowded());
  EXPECT_FALSE(watch.Add(30 * CrowdWatch::kStay - 1));
  EXPECT_TRUE(watch.Add(1));
}

TEST(WaitMeter, CountsWaitingForACoreAndNotSleeping) {
  if (access("/proc/thread-self/schedstat", R_OK) != 0) GTEST_SKIP() << "no waits from this kernel";
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &allowed)) continue;
    CPU_SET(core, &one);
    break;
  }
  // Two threads that never sleep on one core: each waits about as long as it runs.
  std::atomic<bool> stop{false};
  std::thread neighbour([&] {
    sched_setaffinity(0, sizeof(one), &one);
    while (!stop) {
    }
  });
  WaitMeter meter;
  EXPECT_EQ(meter.Waited(), 0);
  int64_t waited = 0, ran = 0;
  std::thread measured([&] {
    sched_setaffinity(0, sizeof(one), &one);
    meter.Attach();
    const int64_t before = meter.Waited();
    const int64_t start = Nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    while (ran < 200 * kMillisecond) ran = Nanoseconds(CLOCK_THREAD_CPUTIME_ID) - start;
    waited = meter.Waited() - before;
  });
  measured.join();
  stop = true;
  neighbour.join();
  EXPECT_GT(waited, 20 * kMillisecond);
}

TEST(Ticks, ToClearIsTheWayOutOfATicksSurroundings) {
  const Ticks ticks{4 * kMillisecond, kMillisecond};
  const int64_t tick = 401 * kMillisecond;
  for (const int64_t clear : {20'000, 100'000, 2'000'000, 3'940'000}) {
    EXPECT_EQ(ticks.ToClear(tick + clear), 0) << clear;
  }
  EXPECT_EQ(ticks.ToClear(tick), 20'000);
  EXPECT_EQ(ticks.ToClear(tick + 19'999), 1);
  EXPECT_EQ(ticks.ToClear(tick - 59'999), 79'999);
  EXPECT_EQ(ticks.ToClear(tick - 1), 20'001);
  EXPECT_EQ(Ticks().ToClear(tick), 0);
}

TEST(Ticks, AreFoundAndStoodClearOf) {
  timespec tick;
  ASSERT_EQ(clock_getres(CLOCK_MONOTONIC_COARSE, &tick), 0);
  if (tick.tv_nsec < 900'000) GTEST_SKIP() << "the coarse clock does not tick here";
  const Ticks ticks = Ticks::Find();
  EXPECT_EQ(ticks.length, tick.tv_nsec);
  EXPECT_GE(ticks.phase, 0);
  EXPECT_LT(ticks.phase, ticks.length);
  for (int i = 0; i < 20000; ++i) StandClearOfTick();
}

TEST(AskForTurns, LeavesNiceAndClassAsTheyWere) {
  std::thread([] {
    struct sched_param param {};
    AskForTurns(100'000);
    EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
    AskForTurns(0);
    EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
    // Where nothing is to be asked, nothing happens.
    ASSERT_EQ(sched_setscheduler(0, SCHED_IDLE, &param), 0);
    AskForTurns(100'000);
    EXPECT_EQ(sched_getscheduler(0), SCHED_IDLE);
  }).join();
}

}  // namespace
}  // namespace shiftadd
