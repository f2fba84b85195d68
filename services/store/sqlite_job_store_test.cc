#include <filesystem>
#include <fstream>

#include "services/base/ids.h"
#include "services/store/job_schema.h"
#include "services/store/job_store_conformance.h"
#include "services/store/sqlite_db.h"

namespace shiftadd {
namespace {

INSTANTIATE_TEST_SUITE_P(Sqlite, JobStoreConformance,
                         testing::Values(JobStoreFactory{
                             "sqlite", false,
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
    auto db = sql::Sqlite::Open(path_, clock_);
    ASSERT_TRUE(db.ok());
    auto newer = SqliteJobMigrations();
    newer.push_back("CREATE TABLE tomorrow (x INTEGER)");
    ASSERT_TRUE(sql::Migrate(db->get(), kSqliteJobVersions, newer).ok());
    ASSERT_TRUE(sql::Migrate(db->get(), kSqliteJobVersions, newer).ok());  // again: nothing to do
  }
  const auto opened = OpenSqliteJobStore(path_, clock_);
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(opened.status().message().find("found version 5"), std::string::npos);
}

// A database of the first schema, with a job in it, is brought up to date.
TEST_F(SqliteFile, KeepsTheJobsOfAnOlderSchema) {
  {
    auto db = sql::Sqlite::Open(path_, clock_);
    ASSERT_TRUE(db.ok());
    ASSERT_TRUE(sql::Migrate(db->get(), kSqliteJobVersions, {SqliteJobMigrations().front()}).ok());
    ASSERT_TRUE((*db)
                    ->Write([](sql::Session& s) {
                      return s.Script(
                          "INSERT INTO jobs VALUES (1, 'job-a', 'ann', '', '', 1, 0, 0, "
                          "'cpu-avx2', 0, 1, 0, x'')");
                    })
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
  auto db = sql::Sqlite::Open(path_, clock_);
  ASSERT_TRUE(db.ok());
  EXPECT_FALSE(sql::Migrate(db->get(), kSqliteJobVersions,
                            {"CREATE TABLE a (x INTEGER)", "CREATE TABLE b (x INTEGER); nonsense"})
                   .ok());
  EXPECT_TRUE(sql::Migrate(db->get(), kSqliteJobVersions,
                           {"CREATE TABLE a (x INTEGER)", "CREATE TABLE b (x INTEGER)"})
                  .ok());
}

}  // namespace
}  // namespace shiftadd
