// What becomes of news that do not arrive, and of connections that are ended.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/store/job_store.h"
#include "services/store/postgres_db.h"
#include "services/store/postgres_server.h"

namespace shiftadd {
namespace {

constexpr absl::Duration kQuiet = absl::Milliseconds(300);
constexpr absl::Duration kPatience = absl::Seconds(60);

class PostgresLost : public testing::Test {
 protected:
  std::unique_ptr<JobStore> Open(absl::Duration poll) {
    StorePolicy policy;
    policy.poll = poll;
    auto store = OpenPostgresJobStore(url_, nullptr, policy);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  static void CreateJob(JobStore* store, const std::string& id) {
    NewJob job;
    job.job.set_job_id(id);
    job.job.set_state(v1::JOB_STATE_PROFILING);
    job.tasks.push_back({v1::TASK_KIND_PROFILE, 0, 0, 1, "payload", "", ""});
    const auto created = store->CreateJob(job);
    ASSERT_TRUE(created.ok()) << created.status();
  }
  // Behind every store's back: nobody is told.
  void Script(const std::string& text) {
    auto db = sql::Postgres::Connect(*sql::PostgresUrl::Parse(url_), {});
    ASSERT_TRUE(db.ok()) << db.status();
    const absl::Status run = (*db)->Write([&](sql::Session& s) { return s.Script(text); });
    ASSERT_TRUE(run.ok()) << run;
  }
  // Ends every connection to the database but the asking one; how many they were.
  int Terminate(const std::string& which = "true") const {
    const size_t name = url_.find("@/") + 2;
    const std::string database = url_.substr(name, url_.find('?') - name);
    const std::string count = PostgresServer::Shared().Sql(
        "postgres",
        absl::StrCat("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE ",
                     "datname = '", database, "' AND ", which));
    return std::stoi(count);
  }
  // The count of work once no more comes.
  static uint64_t Settled(JobStore* store) {
    uint64_t seen = store->AwaitWork(0, absl::ZeroDuration());
    for (uint64_t now = 0; (now = store->AwaitWork(seen, kQuiet)) != seen;) seen = now;
    return seen;
  }
  static LeaseQuery Worker() {
    LeaseQuery query;
    query.worker = "w";
    query.device_class = "cpu-avx2";
    return query;
  }

  const std::string url_ = PostgresServer::Shared().NewDatabase();
};

TEST_F(PostgresLost, PollingFindsWhatNoNotificationTellsOf) {
  const auto polls = Open(absl::Milliseconds(50)), listens = Open(absl::Hours(1));
  CreateJob(polls.get(), "job-a");
  Script("UPDATE tasks SET state = 99");
  const uint64_t deaf = Settled(listens.get());
  const auto none = polls->LeaseTask(Worker());
  ASSERT_TRUE(none.ok() && !none->task.has_value());
  const uint64_t seen = polls->AwaitWork(0, absl::ZeroDuration());
  Script("UPDATE tasks SET state = 1");
  EXPECT_NE(polls->AwaitWork(seen, kPatience), seen);
  EXPECT_TRUE(polls->LeaseTask(Worker())->task.has_value());
  // Who does not poll has not heard of it: nothing was sent. (The lease is no news for workers.)
  EXPECT_EQ(listens->AwaitWork(deaf, kQuiet), deaf);
}

TEST_F(PostgresLost, ConnectionsThatAreEndedBetweenCallsAreReplaced) {
  const auto store = Open(absl::Hours(1));
  CreateJob(store.get(), "job-a");
  EXPECT_GT(Terminate(), 0);
  EXPECT_TRUE(store->GetJob("job-a").ok());
  EXPECT_GT(Terminate(), 0);
  const auto leased = store->LeaseTask(Worker());
  ASSERT_TRUE(leased.ok()) << leased.status();
  ASSERT_TRUE(leased->task.has_value());
  const LeaseKey key{leased->task->task_id, "w", leased->task->lease_epoch};
  EXPECT_GT(Terminate(), 0);
  EXPECT_TRUE(store->RenewLease(key, 0.5).ok());
  EXPECT_GT(Terminate(), 0);
  const auto completed = store->CompleteTask(key, "result", {});
  ASSERT_TRUE(completed.ok()) << completed.status();
  EXPECT_TRUE(*completed);
  EXPECT_EQ((*store->GetTask(key.task_id)).state, TaskState::kDone);
}

TEST_F(PostgresLost, AListenerThatIsCutOffListensAgain) {
  const auto teller = Open(absl::Hours(1)), listener = Open(absl::Hours(1));
  CreateJob(teller.get(), "job-a");
  const uint64_t before = Settled(listener.get());
  EXPECT_EQ(Terminate("query LIKE 'LISTEN%'"), 2);
  EXPECT_NE(listener->AwaitWork(before, kPatience), before);  // whatever it has missed
  const uint64_t again = Settled(listener.get());
  CreateJob(teller.get(), "job-b");
  EXPECT_NE(listener->AwaitWork(again, kPatience), again);
}

TEST_F(PostgresLost, ATellerThatIsCutOffTellsWhatCameNext) {
  const auto teller = Open(absl::Hours(1)), listener = Open(absl::Hours(1));
  CreateJob(teller.get(), "job-a");
  Settled(listener.get());
  EXPECT_GT(Terminate("query LIKE 'NOTIFY%'"), 0);
  const uint64_t seen = Settled(listener.get());
  CreateJob(teller.get(), "job-b");
  EXPECT_NE(listener->AwaitWork(seen, kPatience), seen);
}

}  // namespace
}  // namespace shiftadd
