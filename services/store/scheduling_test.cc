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
  job.tasks = {Profile(0, 0, true), Profile(1, 0), Profile(2, 0), Profile(4, 4), Profile(5, 4)};
  LeaseQuery query;
  query.worker = "w";
  std::string reason;
  EXPECT_EQ(PickTask({job}, query, false, &reason), "block4");  // nobody works in its lane
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

SchedulableTask Ends() {
  SchedulableTask ends;
  ends.task_id = "ends";
  ends.kind = v1::TASK_KIND_ENDS;
  return ends;
}

TEST(PickTask, AGpuBeginsWhatNeedsNone) {
  for (const v1::TaskKind kind : {v1::TASK_KIND_HASH, v1::TASK_KIND_ENDS}) {
    SchedulableTask beside = Ends(), calibrate;
    beside.kind = kind;
    beside.rank = 1;
    calibrate.task_id = "calibrate";
    calibrate.kind = v1::TASK_KIND_CALIBRATE;
    SchedulableJob job;
    job.tasks = {calibrate, beside};
    LeaseQuery query;
    std::string reason;
    query.device_class = "cpu";
    EXPECT_EQ(PickTask({job}, query, false, &reason), "calibrate");
    query.device_class = "gpu-sm_90";
    EXPECT_EQ(PickTask({job}, query, false, &reason), "ends");
  }
}

TEST(PickTask, WhoseLaneIsDoneTakesEndsBeforeAnothersLane) {
  SchedulableJob job;
  job.job_id = "job";
  job.tasks = {Ends(), Profile(16, 16, true)};
  for (uint32_t block = 17; block < 32; ++block) job.tasks.push_back(Profile(block, 16));
  LeaseQuery query;
  query.worker = "w";
  query.held_job = "job";
  query.held_ordinal = 16;  // has done 0 to 15
  std::string reason;
  EXPECT_EQ(PickTask({job}, query, false, &reason), "ends");
  job.tasks[0].running = true;
  // Held by another as well, and just begun: a lane of 16 is worth running one block.
  query.held_ordinal = 0;
  EXPECT_EQ(PickTask({job}, query, false, &reason), "block17");
  // A lane that nobody is in goes before.
  job.tasks[0].running = false;
  job.tasks.push_back(Profile(15, 0));
  EXPECT_EQ(PickTask({job}, query, false, &reason), "block15");
  // Who does it beside its blocks takes it at once, also if it holds the next block's input.
  query.device_class = "gpu-NVIDIA-H100";
  query.held_ordinal = 15;
  EXPECT_EQ(PickTask({job}, query, false, &reason), "ends");
}

TEST(PickTask, NobodyRunsALaneAgainForItsLastBlocks) {
  SchedulableJob job;
  job.job_id = "job";
  job.tasks = {Profile(28, 16, true), Profile(29, 16), Profile(30, 16), Profile(31, 16)};
  LeaseQuery query;
  query.worker = "w";
  std::string reason;
  // 13 blocks to run, which is as much as 3 tasks, against 3 that are left.
  EXPECT_EQ(PickTask({job}, query, false, &reason), "");
  EXPECT_EQ(reason, "idle");
  // One who is in the lane already goes on wherever the other one is.
  query.held_job = "job";
  query.held_ordinal = 28;
  EXPECT_EQ(PickTask({job}, query, false, &reason), "block29");
  // So does anyone once the other one is gone, and where the lane's beginning is near.
  query.held_job.clear();
  job.tasks[0].running = false;
  EXPECT_EQ(PickTask({job}, query, false, &reason), "block28");
  job.tasks = {Profile(0, 0, true), Profile(1, 0), Profile(2, 0)};
  EXPECT_EQ(PickTask({job}, query, false, &reason), "block1");
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
