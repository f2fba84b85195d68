// Databases of other versions of this program.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "services/store/job_schema.h"
#include "services/store/job_store.h"
#include "services/store/postgres_db.h"
#include "services/store/postgres_server.h"

namespace shiftadd {
namespace {

class PostgresSchema : public testing::Test {
 protected:
  void SetUp() override {
    auto db = sql::Postgres::Connect(*sql::PostgresUrl::Parse(url_), {});
    ASSERT_TRUE(db.ok()) << db.status();
    db_ = *std::move(db);
  }
  absl::Status Migrate(const std::vector<std::string>& steps) {
    return sql::Migrate(db_.get(), kPostgresJobVersions, steps);
  }
  absl::Status Script(const std::string& text) {
    return db_->Write([&](sql::Session& s) { return s.Script(text); });
  }

  const std::string url_ = PostgresServer::Shared().NewDatabase();
  std::unique_ptr<sql::Postgres> db_;
};

TEST_F(PostgresSchema, ANewerOneIsRefused) {
  auto newer = PostgresJobMigrations();
  newer.push_back("CREATE TABLE tomorrow (x BIGINT)");
  ASSERT_TRUE(Migrate(newer).ok());
  ASSERT_TRUE(Migrate(newer).ok());  // again: nothing to do
  const auto opened = OpenPostgresJobStore(url_);
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(opened.status().message().find("found version 5"), std::string::npos)
      << opened.status();
  EXPECT_EQ(opened.status().message().find(PostgresServer::Password()), std::string::npos);
}

// A database of the first schema, with a job and a task in it, is brought up to date and worked on.
TEST_F(PostgresSchema, JobsOfAnOlderOneAreKept) {
  ASSERT_TRUE(Migrate({PostgresJobMigrations().front()}).ok());
  const absl::Status written = Script(
      "INSERT INTO jobs (job_id, owner, request_id, fingerprint, state, priority, any_device, "
      "device_class, last_sequence, revision, cleaned, quantizer_version, document) VALUES "
      "('job-a', 'ann', '', '', 4, 0, 0, 'cpu-avx2', 0, 1, 0, '2', '');"
      "INSERT INTO tasks (task_id, job_id, kind, ordinal, lane, rank, state, lease_epoch, "
      "deadline, worker, lost_by, attempts, progress, lease_time, end_time, error_code, error, "
      "payload, result) VALUES ('task-a', 'job-a', 5, 0, 0, 1, 1, 7, 0, '', '', '{}', 0, 0, 0, 0, "
      "'', '', '');"
      "INSERT INTO workers VALUES ('old', 'cpu-avx2', 1, '2', 0)");
  ASSERT_TRUE(written.ok()) << written;
  const auto store = OpenPostgresJobStore(url_);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto job = (*store)->GetJob("job-a");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->job.device_class(), "cpu-avx2");
  EXPECT_EQ(job->job.state(), v1::JOB_STATE_PROFILING);
  LeaseQuery query;
  query.worker = "new";
  query.device_class = "cpu-avx2";
  query.version = "2";
  const auto leased = (*store)->LeaseTask(query);
  ASSERT_TRUE(leased.ok()) << leased.status();
  ASSERT_TRUE(leased->task.has_value()) << leased->idle_reason;
  EXPECT_EQ(leased->task->lease_epoch, 8u);
  EXPECT_TRUE((*store)->SetStanding("old", WorkerStanding::kCordoned).ok());
  EXPECT_TRUE(OpenPostgresJobStore(url_).ok());  // again: nothing to do
}

TEST_F(PostgresSchema, AFailedMigrationLeavesTheOldVersion) {
  EXPECT_FALSE(Migrate({"CREATE TABLE a (x BIGINT)", "CREATE TABLE b (x BIGINT); nonsense"}).ok());
  EXPECT_TRUE(Migrate({"CREATE TABLE a (x BIGINT)", "CREATE TABLE b (x BIGINT)"}).ok());
}

}  // namespace
}  // namespace shiftadd
