#include "services/store/sqlite_connection.h"

#include <sqlite3.h>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::sql {
namespace {

// The log is copied into the file beyond so many pages of 4 KiB, by whoever commits then. Readers
// that overlap each other for ever would let it grow without end: beyond the second number it is
// waited for that none is left.
constexpr int kCheckpointPages = 4000;
constexpr int kRestartPages = 16000;

absl::Status ToStatus(int code, sqlite3* db) {
  const std::string message = absl::StrCat("database: ", sqlite3_errmsg(db));
  switch (code & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
      return absl::OkStatus();
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_IOERR:
      return absl::UnavailableError(message);
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(message);
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return absl::FailedPreconditionError(message);
    case SQLITE_CONSTRAINT:
      return absl::AlreadyExistsError(message);
    default:
      return absl::InternalError(message);
  }
}

int Bind(sqlite3_stmt* statement, int index, const Value& value) {
  const char* data = value.bytes.data();
  const sqlite3_uint64 size = value.bytes.size();
  switch (value.type) {
    case Value::Type::kInt:
      return sqlite3_bind_int64(statement, index, value.number);
    case Value::Type::kReal:
      return sqlite3_bind_double(statement, index, value.real);
    case Value::Type::kText:
      return sqlite3_bind_text64(statement, index, data, size, SQLITE_TRANSIENT, SQLITE_UTF8);
    case Value::Type::kBlob:
      return sqlite3_bind_blob64(statement, index, data, size, SQLITE_TRANSIENT);
  }
  return SQLITE_MISUSE;
}

// After a commit. What fails here is done at another commit.
int Checkpoint(void*, sqlite3* db, const char* name, int pages) {
  if (pages < kCheckpointPages) return SQLITE_OK;
  const int mode = pages < kRestartPages ? SQLITE_CHECKPOINT_PASSIVE : SQLITE_CHECKPOINT_RESTART;
  sqlite3_wal_checkpoint_v2(db, name, mode, nullptr, nullptr);
  return SQLITE_OK;
}

}  // namespace

class SqliteConnection::SqliteRows : public Rows {
 public:
  SqliteRows(SqliteConnection* connection, const std::string& sql, sqlite3_stmt* statement)
      : connection_(connection), sql_(sql), statement_(statement) {}
  ~SqliteRows() override {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
    connection_->idle_[sql_].push_back(statement_);
  }

  absl::StatusOr<bool> Next() override {
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return ToStatus(code, connection_->db_);
  }
  int64_t Int(int column) const override { return sqlite3_column_int64(statement_, column); }
  double Real(int column) const override { return sqlite3_column_double(statement_, column); }
  std::string Bytes(int column) const override {
    const void* data = sqlite3_column_blob(statement_, column);
    const int size = sqlite3_column_bytes(statement_, column);
    if (data == nullptr) return {};
    return std::string(static_cast<const char*>(data), static_cast<size_t>(size));
  }

 private:
  SqliteConnection* const connection_;
  const std::string sql_;
  sqlite3_stmt* const statement_;
};

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteConnection::Open(const std::string& path) {
  sqlite3* raw = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &raw,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<SqliteConnection> connection(new SqliteConnection(raw));
  if (code != SQLITE_OK) return Annotate(ToStatus(code, raw), path);
  sqlite3_busy_timeout(raw, 5000);
  for (const char* pragma :
       {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"}) {
    SA_RETURN_IF_ERROR(Annotate(connection->Script(pragma), path));
  }
  sqlite3_wal_hook(raw, Checkpoint, nullptr);
  return connection;
}

SqliteConnection::~SqliteConnection() {
  for (const auto& [sql, statements] : idle_) {
    for (sqlite3_stmt* statement : statements) sqlite3_finalize(statement);
  }
  sqlite3_close(db_);
}

absl::StatusOr<sqlite3_stmt*> SqliteConnection::Prepare(const std::string& sql) {
  std::vector<sqlite3_stmt*>& known = idle_[sql];
  sqlite3_stmt* statement = nullptr;
  if (!known.empty()) {
    statement = known.back();
    known.pop_back();
    return statement;
  }
  const int code = sqlite3_prepare_v3(db_, sql.data(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code != SQLITE_OK) return ToStatus(code, db_);
  return statement;
}

absl::StatusOr<std::unique_ptr<Rows>> SqliteConnection::Execute(const std::string& sql,
                                                                const std::vector<Value>& values) {
  SA_ASSIGN_OR_RETURN(sqlite3_stmt* const statement, Prepare(sql));
  auto rows = std::make_unique<SqliteRows>(this, sql, statement);
  int code = SQLITE_OK;
  for (size_t i = 0; code == SQLITE_OK && i < values.size(); ++i) {
    code = Bind(statement, static_cast<int>(i) + 1, values[i]);
  }
  SA_RETURN_IF_ERROR(ToStatus(code, db_));
  return rows;
}

absl::Status SqliteConnection::Script(const char* sql) {
  return ToStatus(sqlite3_exec(db_, sql, nullptr, nullptr, nullptr), db_);
}

int64_t SqliteConnection::changes() const { return sqlite3_changes(db_); }

bool SqliteConnection::in_transaction() const { return sqlite3_get_autocommit(db_) == 0; }

}  // namespace shiftadd::sql
