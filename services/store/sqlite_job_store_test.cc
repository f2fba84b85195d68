#include <filesystem>
#include <fstream>

#include "services/base/ids.h"
#include "services/store/job_store_conformance.h"
#include "services/store/scheduling.h"
#include "services/store/sqlite_schema.h"

namespace shiftadd {
namespace {

INSTANTIATE_TEST_SUITE_P(Sqlite, JobStoreConformance,
                         testing::Values(JobStoreFactory{
                             "sqlite",
                             [](const std::string& place, std::shared_ptr<const Clock> clock,
                                const StorePolicy& policy) {
                               return OpenSqliteJobStore(place + "/coordinator.db",
                                                         std::move(clock), policy);
                             }}),
                         [](const auto& info) { return info.param.name; });

class SqliteFile : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(dir_); }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  const std::string dir_ = testing::TempDir() + NewId("sqlite");
  const std::string path_ = dir_ + "/coordinator.db";
  const std::shared_ptr<const Clock> clock_ = std::make_shared<SystemClock>();
};

TEST_F(SqliteFile, OneCoordinatorAtATime) {
  auto first = OpenSqliteJobStore(path_, clock_);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = OpenSqliteJobStore(path_, clock_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(second.status().message().find("locked by another coordinator"), std::string::npos);
  first->reset();
  EXPECT_TRUE(OpenSqliteJobStore(path_, clock_).ok());
}

TEST_F(SqliteFile, ClearErrorsForBadFiles) {
  EXPECT_EQ(OpenSqliteJobStore(dir_ + "/no/such/dir.db", clock_).status().code(),
            absl::StatusCode::kFailedPrecondition);
  std::ofstream(path_) << std::string(8192, 'x');
  EXPECT_EQ(OpenSqliteJobStore(path_, clock_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(SqliteFile, RefusesANewerSchema) {
  {
    auto db = sqlite::Database::Open(path_);
    ASSERT_TRUE(db.ok());
    auto newer = sqlite::JobMigrations();
    newer.push_back("CREATE TABLE tomorrow (x INTEGER)");
    ASSERT_TRUE(sqlite::Migrate(db->get(), newer).ok());
    ASSERT_TRUE(sqlite::Migrate(db->get(), newer).ok());  // again: nothing to do
  }
  const auto opened = OpenSqliteJobStore(path_, clock_);
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(opened.status().message().find("found version 3"), std::string::npos);
}

// A database of the first schema, with a job in it, is brought up to date.
TEST_F(SqliteFile, KeepsTheJobsOfAnOlderSchema) {
  {
    auto db = sqlite::Database::Open(path_);
    ASSERT_TRUE(db.ok());
    ASSERT_TRUE(sqlite::Migrate(db->get(), {sqlite::JobMigrations().front()}).ok());
    ASSERT_TRUE((*db)
                    ->Execute("INSERT INTO jobs VALUES (1, 'job-a', 'ann', '', '', 1, 0, 0, "
                              "'cpu-avx2', 0, 1, 0, x'')")
                    .ok());
  }
  const auto store = OpenSqliteJobStore(path_, clock_);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto job = (*store)->GetJob("job-a");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->job.device_class(), "cpu-avx2");
  EXPECT_EQ(job->quantizer_version, "");
}

TEST_F(SqliteFile, AFailedMigrationLeavesTheOldVersion) {
  auto db = sqlite::Database::Open(path_);
  ASSERT_TRUE(db.ok());
  EXPECT_FALSE(sqlite::Migrate(db->get(), {"CREATE TABLE a (x INTEGER)",
                                           "CREATE TABLE b (x INTEGER); nonsense"})
                   .ok());
  EXPECT_TRUE(
      sqlite::Migrate(db->get(), {"CREATE TABLE a (x INTEGER)", "CREATE TABLE b (x INTEGER)"})
          .ok());
}

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

}  // namespace
}  // namespace shiftadd
