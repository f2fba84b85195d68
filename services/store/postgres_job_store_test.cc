#include "services/store/postgres_job_store.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/store/job_store_conformance.h"
#include "services/store/postgres_server.h"

namespace shiftadd {
namespace {

// The database of one test's place.
std::string DatabaseOf(const std::string& place) {
  static auto* const known = new std::map<std::string, std::string>();
  std::string& url = (*known)[place];
  if (url.empty()) url = PostgresServer::Shared().NewDatabase();
  return url;
}

JobStoreFactory Factory(const std::string& name, const std::string& isolation) {
  return {name, true,
          [isolation](const std::string& place, std::shared_ptr<const Clock> clock,
                      const StorePolicy& policy) {
            sql::PostgresOptions options;
            options.clock = std::move(clock);
            options.isolation = isolation;
            return OpenPostgresJobStore(DatabaseOf(place), std::move(options), policy);
          }};
}

// SERIALIZABLE is not what coordinators use: there every conflict is met by running the transaction
// again.
INSTANTIATE_TEST_SUITE_P(Postgres, JobStoreConformance,
                         testing::Values(Factory("postgres", "READ COMMITTED"),
                                         Factory("postgres_serializable", "SERIALIZABLE")),
                         [](const auto& info) { return info.param.name; });

// A database whose server's clock is not this machine's: what asks it for the time finds a function
// of this one before PostgreSQL's own.
class SkewedServer {
 public:
  SkewedServer() {
    auto db = sql::Postgres::Connect(*sql::PostgresUrl::Parse(url), {});
    if (!db.ok()) ADD_FAILURE() << db.status();
    db_ = *std::move(db);
    Run("CREATE TABLE ahead (seconds bigint NOT NULL); INSERT INTO ahead VALUES (0);"
        "CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
        "$$SELECT pg_catalog.clock_timestamp() + (SELECT seconds FROM ahead) * interval '1s'$$");
  }
  void Set(absl::Duration ahead) {
    Run(absl::StrCat("UPDATE ahead SET seconds = ", absl::ToInt64Seconds(ahead)));
  }

  const std::string url =
      PostgresServer::Shared().NewDatabase() + "&options=-c%20search_path%3Dpublic%2Cpg_catalog";

 private:
  void Run(const std::string& script) {
    const absl::Status run = db_->Write([&](sql::Session& s) { return s.Script(script); });
    EXPECT_TRUE(run.ok()) << run;
  }
  std::unique_ptr<sql::Postgres> db_;
};

// Two coordinators whose own clock is a day before the server's, or behind it.
TEST(PostgresClock, TheServersDecides) {
  for (const absl::Duration ahead : {absl::Hours(24), -absl::Hours(24)}) {
    SkewedServer server;
    server.Set(ahead);
    StorePolicy policy;
    policy.lease = absl::Minutes(10);
    const auto open = [&] {
      auto store = OpenPostgresJobStore(server.url, nullptr, policy);
      EXPECT_TRUE(store.ok()) << store.status();
      return *std::move(store);
    };
    const std::unique_ptr<JobStore> one = open(), other = open();
    NewJob job;
    job.job.set_job_id("job-a");
    job.job.set_state(v1::JOB_STATE_PROFILING);
    job.tasks.push_back({v1::TASK_KIND_PROFILE, 0, 0, 1, "payload", "", ""});
    ASSERT_TRUE(one->CreateJob(job).ok());
    LeaseQuery query;
    query.worker = "w";
    query.device_class = "cpu-avx2";
    const auto leased = one->LeaseTask(query);
    ASSERT_TRUE(leased.ok()) << leased.status();
    ASSERT_TRUE(leased->task.has_value()) << leased->idle_reason;
    const LeaseKey key{leased->task->task_id, "w", leased->task->lease_epoch};
    const auto server_time = [&] { return absl::Now() + ahead; };
    EXPECT_LT(absl::AbsDuration(leased->task->deadline - server_time()), absl::Minutes(15));
    EXPECT_LT(absl::AbsDuration(StoreClock(one.get()).Now() - server_time()), absl::Minutes(5));
    EXPECT_TRUE(one->ReapExpired()->empty());
    EXPECT_TRUE(other->ReapExpired()->empty());

    server.Set(ahead + absl::Minutes(6));
    EXPECT_TRUE(other->RenewLease(key, 0.5).ok());
    server.Set(ahead + absl::Minutes(12));
    EXPECT_TRUE(one->ReapExpired()->empty());
    server.Set(ahead + absl::Minutes(17));
    EXPECT_EQ(one->ReapExpired()->size(), 1u);
    EXPECT_EQ(other->RenewLease(key, 1).status().code(), absl::StatusCode::kAborted);
  }
}

}  // namespace
}  // namespace shiftadd
