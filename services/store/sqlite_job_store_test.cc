#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "absl/time/clock.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
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

// A copy that finds no room leaves nothing: half of one, or an empty one, passes for a database.
TEST_F(SqliteFile, ACopyIsWholeOrNotThere) {
  {
    auto db = sql::Sqlite::Open(path_, clock_);
    ASSERT_TRUE(db.ok());
    ASSERT_TRUE((*db)
                    ->Write([](sql::Session& s) {
                      return s.Script(
                          "CREATE TABLE a (x BLOB); INSERT INTO a VALUES (randomblob(1000000))");
                    })
                    .ok());
  }
  const std::string copies = dir_ + "/copies";
  std::filesystem::create_directory(copies);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto signal_before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit less = old;
  less.rlim_cur = 200'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &less), 0);
  const absl::Status full = BackUpSqliteJobStore(path_, copies + "/copy.db");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, signal_before);
  EXPECT_FALSE(full.ok());
  EXPECT_NE(full.message().find("copy.db: "), std::string::npos) << full;
  EXPECT_TRUE(std::filesystem::is_empty(copies));

  ASSERT_TRUE(BackUpSqliteJobStore(path_, copies + "/copy.db").ok());
  EXPECT_GT(std::filesystem::file_size(copies + "/copy.db"), 1'000'000u);
  EXPECT_EQ(BackUpSqliteJobStore(path_, copies + "/copy.db").code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(copies), {}), 1);
}

// A page that is damaged shows at the start, not when a job happens to need it.
TEST_F(SqliteFile, ADamagedPageIsFoundAtTheStart) {
  ASSERT_TRUE(OpenSqliteJobStore(path_, clock_).ok());
  {
    auto db = sql::Sqlite::Open(path_, clock_);
    ASSERT_TRUE(db.ok());
    ASSERT_TRUE((*db)
                    ->Write([](sql::Session& s) {
                      return s.Script(
                          "CREATE TABLE a (x TEXT);"
                          "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                          "WHERE i < 10000) INSERT INTO a SELECT 'row ' || i FROM n");
                    })
                    .ok());
  }
  ASSERT_TRUE(OpenSqliteJobStore(path_, clock_).ok());
  const auto size = static_cast<std::streamoff>(std::filesystem::file_size(path_));
  {
    std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(size - 40 * 1024);
    file << std::string(16 * 1024, 'x');
  }
  const absl::Status damaged = OpenSqliteJobStore(path_, clock_).status();
  EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss) << damaged;
  EXPECT_NE(damaged.message().find(path_ + ": "), std::string::npos);
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
  EXPECT_NE(opened.status().message().find("found version 6"), std::string::npos);
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

// Transactions that come while one commits are committed together: each by itself is whole or has
// not happened.
TEST_F(SqliteFile, CommitsTogetherWhatCameTogether) {
  constexpr int kThreads = 16;
  std::atomic<int> commits{0}, come{0};
  auto opened = sql::Sqlite::Open(path_, clock_, [&](Change) { ++commits; });
  ASSERT_TRUE(opened.ok());
  sql::Sqlite& db = **opened;
  ASSERT_TRUE(
      db.Write([](sql::Session& s) { return s.Script("CREATE TABLE a (x INTEGER)"); }).ok());
  const auto insert = [](sql::Session& s, int64_t x) {
    s.Announce();
    return sql::Statement(s, "INSERT INTO a VALUES (?)").Int(x).Run();
  };
  std::vector<std::thread> threads;
  std::vector<absl::Status> answers(kThreads);
  ASSERT_TRUE(db.Write([&](sql::Session& s) {
                  for (int i = 0; i < kThreads; ++i) {
                    threads.emplace_back([&, i] {
                      ++come;
                      answers[static_cast<size_t>(i)] = db.Write([&](sql::Session& own) {
                        SA_RETURN_IF_ERROR(insert(own, i));
                        return i % 4 == 3 ? absl::AbortedError("no") : absl::OkStatus();
                      });
                    });
                  }
                  while (come < kThreads) std::this_thread::yield();
                  absl::SleepFor(absl::Milliseconds(200));  // so that they queue up
                  return insert(s, 1000);
                }).ok());
  for (std::thread& thread : threads) thread.join();
  int64_t sum = 0;
  ASSERT_TRUE(db.Read([&](sql::Session& s) {
                  sql::Statement read(s, "SELECT SUM(x) FROM a");
                  SA_RETURN_IF_ERROR(read.Step().status());
                  sum = read.GetInt();
                  return absl::OkStatus();
                }).ok());
  int64_t expected = 1000;
  for (int i = 0; i < kThreads; ++i) {
    const absl::Status& answer = answers[static_cast<size_t>(i)];
    EXPECT_EQ(answer.code(), i % 4 == 3 ? absl::StatusCode::kAborted : absl::StatusCode::kOk);
    if (answer.ok()) expected += i;
  }
  EXPECT_EQ(sum, expected);
  EXPECT_LT(commits, kThreads) << "one commit each";
}

TEST_F(SqliteFile, ReadersDoNotWaitForAWriter) {
  auto opened = sql::Sqlite::Open(path_, clock_);
  ASSERT_TRUE(opened.ok());
  sql::Sqlite& db = **opened;
  const auto count = [&] {
    int64_t rows = -1;
    EXPECT_TRUE(db.Read([&](sql::Session& s) {
                    sql::Statement read(s, "SELECT COUNT(*) FROM a");
                    SA_RETURN_IF_ERROR(read.Step().status());
                    rows = read.GetInt();
                    return absl::OkStatus();
                  }).ok());
    return rows;
  };
  ASSERT_TRUE(
      db.Write([](sql::Session& s) { return s.Script("CREATE TABLE a (x INTEGER)"); }).ok());
  ASSERT_TRUE(db.Write([&](sql::Session& s) {
                  SA_RETURN_IF_ERROR(s.Script("INSERT INTO a VALUES (1)"));
                  EXPECT_EQ(count(), 0);  // nor see what is not committed
                  return absl::OkStatus();
                }).ok());
  EXPECT_EQ(count(), 1);
}

}  // namespace
}  // namespace shiftadd
