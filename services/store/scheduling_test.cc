#include "services/store/scheduling.h"

#include <gtest/gtest.h>

namespace shiftadd {
namespace {

SchedulableTask Profile(uint32_t block, uint32_t lane, bool running = false) {
  SchedulableTask t;
  t.task_id = "block" + std::to_string(block);
  t.kind = v1::TASK_KIND_PROFILE;
  t.ordinal = block;
  t.lane = lane;
  t.running = running;
  return t;
}

TEST(PickTask, PrefersTheHeldBlockAndSpreadsOverLanes) {
  SchedulableJob job;
  job.job_id = "job";
  job.tasks = {Profile(0, 0, true), Profile(1, 0), Profile(2, 0), Profile(4, 1), Profile(5, 1)};
  LeaseQuery query;
  query.worker = "w";
  std::string reason;
  EXPECT_EQ(PickTask({job}, query, false, &reason), "block4");  // nobody works in lane 1
  query.held_job = "job";
  query.held_ordinal = 1;
  EXPECT_EQ(PickTask({job}, query, false, &reason), "block1");
  query.held_ordinal = 3;  // taken or done: as without
  EXPECT_EQ(PickTask({job}, query, false, &reason), "block4");
  query.held_job = "another job";
  query.held_ordinal = 1;
  EXPECT_EQ(PickTask({job}, query, false, &reason), "block4");
}

TEST(PickTask, RankGoesFirst) {
  SchedulableJob job;
  job.job_id = "job";
  job.tasks = {Profile(0, 0)};
  job.tasks[0].rank = 1;
  SchedulableTask forward;
  forward.task_id = "forward";
  forward.kind = v1::TASK_KIND_FORWARD;
  forward.ordinal = 7;
  job.tasks.push_back(forward);
  std::string reason;
  EXPECT_EQ(PickTask({job}, LeaseQuery{}, false, &reason), "forward");
  EXPECT_EQ(PickTask({}, LeaseQuery{}, false, &reason), "");
  EXPECT_EQ(reason, "idle");
}

TEST(PickTask, WhileSomethingIsRepairedNothingElseOfTheJobIsBegun) {
  SchedulableJob job;
  job.job_id = "job";
  job.age = 1;
  job.tasks = {Profile(0, 0)};
  for (const uint32_t ordinal : {0, 1}) {
    SchedulableTask repair;
    repair.task_id = "repair" + std::to_string(ordinal);
    repair.kind = v1::TASK_KIND_REPAIR;
    repair.ordinal = ordinal;
    job.tasks.push_back(repair);
  }
  std::string reason;
  EXPECT_EQ(PickTask({job}, LeaseQuery{}, false, &reason), "repair1");
  job.tasks[2].running = true;
  EXPECT_EQ(PickTask({job}, LeaseQuery{}, false, &reason), "");
  SchedulableJob other;
  other.job_id = "other";
  other.age = 2;
  other.tasks = {Profile(7, 0)};
  EXPECT_EQ(PickTask({job, other}, LeaseQuery{}, false, &reason), "block7");
  // Who has lost the repair leaves it to the others.
  job.tasks[2].running = false;
  job.tasks[2].last_worker = "w";
  LeaseQuery query;
  query.worker = "w";
  EXPECT_EQ(PickTask({job}, query, true, &reason), "");
  EXPECT_EQ(PickTask({job}, query, false, &reason), "repair1");
}

}  // namespace
}  // namespace shiftadd
