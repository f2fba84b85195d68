// JobStore on a SQLite file.
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/store/job_schema.h"
#include "services/store/sql_job_store.h"
#include "services/store/sqlite_db.h"

namespace shiftadd {
namespace {

// Keeps the file's lock as long as the store.
class LockedJobStore : public SqlJobStore {
 public:
  LockedJobStore(std::unique_ptr<sql::FileLock> lock, std::unique_ptr<sql::Database> db,
                 std::shared_ptr<ChangeSignal> changes, const StorePolicy& policy)
      : SqlJobStore(std::move(db), std::move(changes), policy), lock_(std::move(lock)) {}

 private:
  const std::unique_ptr<sql::FileLock> lock_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> OpenSqliteJobStore(const std::string& path,
                                                             std::shared_ptr<const Clock> clock,
                                                             const StorePolicy& policy) {
  auto lock = sql::FileLock::Take(path);
  if (!lock.ok()) {
    if (lock.status().message().find("is locked") == absl::string_view::npos) return lock.status();
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is locked by another coordinator: stop it, or use another --data-dir"));
  }
  auto changes = std::make_shared<ChangeSignal>();
  SA_ASSIGN_OR_RETURN(auto db, sql::Sqlite::Open(path, std::move(clock), [changes](Change change) {
                        changes->Announce(change);
                      }));
  SA_RETURN_IF_ERROR(Annotate(db->CheckPages(), path));
  SA_RETURN_IF_ERROR(
      Annotate(sql::Migrate(db.get(), kSqliteJobVersions, SqliteJobMigrations()), path));
  auto store = std::make_unique<LockedJobStore>(*std::move(lock), std::move(db), changes, policy);
  SA_RETURN_IF_ERROR(Annotate(store->ExtendLeases(), path));
  return std::unique_ptr<JobStore>(std::move(store));
}

absl::Status BackUpSqliteJobStore(const std::string& path, const std::string& copy) {
  if (access(path.c_str(), R_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(path, ": there is no database to copy"));
  }
  SA_ASSIGN_OR_RETURN(auto db, sql::Sqlite::Open(path, std::make_shared<SystemClock>()));
  return db->CopyTo(copy);
}

}  // namespace shiftadd
