// JobStore on PostgreSQL.
#include "services/store/postgres_job_store.h"

#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/store/job_schema.h"
#include "services/store/postgres_db.h"
#include "services/store/postgres_listener.h"
#include "services/store/postgres_notifier.h"
#include "services/store/sql_job_store.h"

namespace shiftadd {
namespace {

constexpr char kChannel[] = "shiftadd_jobs";

// With the threads that tell other coordinators of our commits and hear of theirs.
class SharedJobStore : public SqlJobStore {
 public:
  SharedJobStore(std::unique_ptr<sql::Postgres> db, std::shared_ptr<ChangeSignal> changes,
                 std::shared_ptr<sql::PostgresNotifier> notifier, const StorePolicy& policy,
                 const sql::PostgresUrl& url, const std::string& self)
      : SqlJobStore(std::move(db), changes, policy),
        notifier_(std::move(notifier)),
        listener_(url, kChannel, self, policy.poll,
                  [changes](Change change) { changes->Announce(change); }) {}

 private:
  const std::shared_ptr<sql::PostgresNotifier> notifier_;
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
  const std::string self = NewId("store");
  auto changes = std::make_shared<ChangeSignal>();
  auto notifier = std::make_shared<sql::PostgresNotifier>(url, kChannel, self);
  options.announce = [changes, notifier](Change change) {
    changes->Announce(change);
    notifier->Notify(change);
  };
  SA_ASSIGN_OR_RETURN(auto db, sql::Postgres::Connect(url, std::move(options)));
  SA_RETURN_IF_ERROR(
      Annotate(sql::Migrate(db.get(), kPostgresJobVersions, PostgresJobMigrations()), url.shown()));
  auto store = std::make_unique<SharedJobStore>(std::move(db), changes, std::move(notifier), policy,
                                                url, self);
  SA_RETURN_IF_ERROR(Annotate(store->ExtendLeases(), url.shown()));
  return std::unique_ptr<JobStore>(std::move(store));
}

}  // namespace shiftadd
