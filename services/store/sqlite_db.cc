#include "services/store/sqlite_db.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::sqlite {
namespace {

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

}  // namespace

Statement::Statement(sqlite3* db, absl::string_view sql) : db_(db) {
  const int code =
      sqlite3_prepare_v2(db, sql.data(), static_cast<int>(sql.size()), &stmt_, nullptr);
  status_ = ToStatus(code, db);
}

Statement::~Statement() { sqlite3_finalize(stmt_); }

Statement& Statement::Int(int64_t value) {
  if (status_.ok()) status_ = ToStatus(sqlite3_bind_int64(stmt_, ++bound_, value), db_);
  return *this;
}

Statement& Statement::Real(double value) {
  if (status_.ok()) status_ = ToStatus(sqlite3_bind_double(stmt_, ++bound_, value), db_);
  return *this;
}

Statement& Statement::Text(absl::string_view value) {
  if (!status_.ok()) return *this;
  // An empty view may have no address, which SQLite would take for NULL.
  const char* data = value.empty() ? "" : value.data();
  status_ = ToStatus(
      sqlite3_bind_text64(stmt_, ++bound_, data, value.size(), SQLITE_TRANSIENT, SQLITE_UTF8), db_);
  return *this;
}

Statement& Statement::Blob(absl::string_view value) {
  if (!status_.ok()) return *this;
  const char* data = value.empty() ? "" : value.data();
  status_ =
      ToStatus(sqlite3_bind_blob64(stmt_, ++bound_, data, value.size(), SQLITE_TRANSIENT), db_);
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  SA_RETURN_IF_ERROR(status_);
  column_ = 0;
  const int code = sqlite3_step(stmt_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  status_ = ToStatus(code, db_);
  return status_;
}

absl::Status Statement::Run() { return Step().status(); }

int64_t Statement::GetInt() { return sqlite3_column_int64(stmt_, column_++); }
double Statement::GetReal() { return sqlite3_column_double(stmt_, column_++); }

std::string Statement::GetText() {
  const void* data = sqlite3_column_blob(stmt_, column_);
  const int size = sqlite3_column_bytes(stmt_, column_++);
  return data == nullptr ? std::string()
                         : std::string(static_cast<const char*>(data), static_cast<size_t>(size));
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path) {
  std::unique_ptr<Database> db(new Database());
  const int code =
      sqlite3_open_v2(path.c_str(), &db->db_,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  if (code != SQLITE_OK) return Annotate(ToStatus(code, db->db_), path);
  sqlite3_busy_timeout(db->db_, 5000);
  for (const char* pragma :
       {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"}) {
    SA_RETURN_IF_ERROR(Annotate(db->Execute(pragma), path));
  }
  return db;
}

Database::~Database() { sqlite3_close(db_); }

absl::Status Database::Execute(const std::string& sql) {
  return ToStatus(sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr), db_);
}

int Database::Changes() { return sqlite3_changes(db_); }

absl::StatusOr<std::unique_ptr<Transaction>> Transaction::Begin(Database* db) {
  SA_RETURN_IF_ERROR(db->Execute("BEGIN IMMEDIATE"));
  return std::unique_ptr<Transaction>(new Transaction(db));
}

Transaction::~Transaction() {
  if (open_) db_->Execute("ROLLBACK").IgnoreError();
}

absl::Status Transaction::Commit() {
  SA_RETURN_IF_ERROR(db_->Execute("COMMIT"));
  open_ = false;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<FileLock>> FileLock::Take(const std::string& path) {
  const std::string name = absl::StrCat(path, ".lock");
  const int fd = open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::FailedPreconditionError(absl::StrCat(name, ": cannot open: ", strerror(errno)));
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    return absl::FailedPreconditionError(absl::StrCat(path, " is locked by another process"));
  }
  return std::unique_ptr<FileLock>(new FileLock(fd));
}

FileLock::~FileLock() { close(fd_); }

}  // namespace shiftadd::sqlite
