// JobStore on PostgreSQL.
#include "services/store/postgres_job_store.h"

#include "services/base/status_macros.h"
#include "services/store/job_schema.h"
#include "services/store/postgres_db.h"
#include "services/store/postgres_listener.h"
#include "services/store/sql_job_store.h"

namespace shiftadd {
namespace {

constexpr char kChannel[] = "shiftadd_jobs";

// With the thread that hears of other coordinators' commits.
class ListeningJobStore : public SqlJobStore {
 public:
  ListeningJobStore(std::unique_ptr<sql::Postgres> db, std::shared_ptr<ChangeSignal> changes,
                    const StorePolicy& policy, const sql::PostgresUrl& url, const std::string& name)
      : SqlJobStore(std::move(db), changes, policy),
        listener_(url, kChannel, name, policy.poll, [changes] { changes->Announce(); }) {}

 private:
  sql::PostgresListener listener_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> OpenPostgresJobStore(const std::string& url,
                                                               std::shared_ptr<const Clock> clock,
                                                               const StorePolicy& policy) {
  sql::PostgresOptions options;
  options.clock = std::move(clock);
  return OpenPostgresJobStore(url, std::move(options), policy);
}

absl::StatusOr<std::unique_ptr<JobStore>> OpenPostgresJobStore(const std::string& text,
                                                               sql::PostgresOptions options,
                                                               const StorePolicy& policy) {
  SA_ASSIGN_OR_RETURN(const sql::PostgresUrl url, sql::PostgresUrl::Parse(text));
  auto changes = std::make_shared<ChangeSignal>();
  options.announce = [changes] { changes->Announce(); };
  options.channel = kChannel;
  SA_ASSIGN_OR_RETURN(auto db, sql::Postgres::Connect(url, std::move(options)));
  SA_RETURN_IF_ERROR(
      Annotate(sql::Migrate(db.get(), kPostgresJobVersions, PostgresJobMigrations()), url.shown()));
  const std::string name = db->name();
  auto store = std::make_unique<ListeningJobStore>(std::move(db), changes, policy, url, name);
  SA_RETURN_IF_ERROR(Annotate(store->ExtendLeases(), url.shown()));
  return std::unique_ptr<JobStore>(std::move(store));
}

}  // namespace shiftadd
