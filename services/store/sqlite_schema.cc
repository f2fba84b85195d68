#include "services/store/sqlite_schema.h"

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::sqlite {

// Times are microseconds since the Unix epoch. Columns repeat what queries and leases need from the
// document; where they do (state, device_class, last_sequence) the column counts.
const std::vector<std::string>& JobMigrations() {
  static const auto* steps = new std::vector<std::string>{R"sql(
    CREATE TABLE jobs (
      number INTEGER PRIMARY KEY AUTOINCREMENT,
      job_id TEXT NOT NULL UNIQUE,
      owner TEXT NOT NULL,
      request_id TEXT NOT NULL,
      fingerprint TEXT NOT NULL,
      state INTEGER NOT NULL,
      priority INTEGER NOT NULL,
      any_device INTEGER NOT NULL,
      device_class TEXT NOT NULL,
      last_sequence INTEGER NOT NULL,
      revision INTEGER NOT NULL,
      cleaned INTEGER NOT NULL,
      document BLOB NOT NULL);
    CREATE UNIQUE INDEX jobs_by_request ON jobs (owner, request_id) WHERE request_id <> '';
    CREATE INDEX jobs_by_state ON jobs (state);

    CREATE TABLE tasks (
      number INTEGER PRIMARY KEY AUTOINCREMENT,
      task_id TEXT NOT NULL UNIQUE,
      job_id TEXT NOT NULL REFERENCES jobs (job_id),
      kind INTEGER NOT NULL,
      ordinal INTEGER NOT NULL,
      lane INTEGER NOT NULL,
      rank INTEGER NOT NULL,
      state INTEGER NOT NULL,
      lease_epoch INTEGER NOT NULL,
      deadline INTEGER NOT NULL,
      worker TEXT NOT NULL,
      lost_by TEXT NOT NULL,
      attempts TEXT NOT NULL,
      progress REAL NOT NULL,
      lease_time INTEGER NOT NULL,
      end_time INTEGER NOT NULL,
      error_code INTEGER NOT NULL,
      error TEXT NOT NULL,
      payload BLOB NOT NULL,
      result BLOB NOT NULL,
      UNIQUE (job_id, kind, ordinal));
    CREATE INDEX tasks_by_state ON tasks (state, deadline);

    CREATE TABLE events (
      job_id TEXT NOT NULL REFERENCES jobs (job_id),
      sequence INTEGER NOT NULL,
      payload BLOB NOT NULL,
      PRIMARY KEY (job_id, sequence)) WITHOUT ROWID;

    CREATE TABLE owners (
      owner TEXT PRIMARY KEY,
      turn INTEGER NOT NULL) WITHOUT ROWID;

    CREATE TABLE workers (
      worker_id TEXT PRIMARY KEY,
      device_class TEXT NOT NULL,
      memory INTEGER NOT NULL,
      version TEXT NOT NULL,
      last_seen INTEGER NOT NULL) WITHOUT ROWID;
  )sql",
                                                          R"sql(
    ALTER TABLE jobs ADD COLUMN quantizer_version TEXT NOT NULL DEFAULT '';
  )sql"};
  return *steps;
}

absl::Status Migrate(Database* db, const std::vector<std::string>& migrations) {
  SA_RETURN_IF_ERROR(db->Execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER)"));
  size_t version = 0;
  {
    Statement read(db->get(), "SELECT MAX(version) FROM schema_version");
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (row) version = static_cast<size_t>(read.GetInt());
  }
  if (version > migrations.size()) {
    return absl::FailedPreconditionError(absl::StrCat("database schema: found version ", version,
                                                      ", this program knows ", migrations.size(),
                                                      " at most: use a newer shiftadd"));
  }
  for (; version < migrations.size(); ++version) {
    SA_ASSIGN_OR_RETURN(auto transaction, Transaction::Begin(db));
    SA_RETURN_IF_ERROR(db->Execute(migrations[version]));
    Statement write(db->get(), "INSERT INTO schema_version (version) VALUES (?)");
    SA_RETURN_IF_ERROR(write.Int(static_cast<int64_t>(version) + 1).Run());
    SA_RETURN_IF_ERROR(transaction->Commit());
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::sqlite
