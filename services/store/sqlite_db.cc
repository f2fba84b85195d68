#include "services/store/sqlite_db.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "services/base/fail_point.h"
#include "services/base/status_macros.h"

namespace shiftadd::sql {
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

class SqliteRows : public Rows {
 public:
  SqliteRows(sqlite3* db, sqlite3_stmt* statement) : db_(db), statement_(statement) {}
  ~SqliteRows() override { sqlite3_finalize(statement_); }

  absl::StatusOr<bool> Next() override {
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return ToStatus(code, db_);
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
  sqlite3* const db_;
  sqlite3_stmt* const statement_;
};

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

class SqliteSession : public Session {
 public:
  SqliteSession(sqlite3* db, int64_t now) : db_(db), now_(now) {}

  absl::StatusOr<std::unique_ptr<Rows>> Execute(const std::string& sql,
                                                const std::vector<Value>& values) override {
    sqlite3_stmt* statement = nullptr;
    int code =
        sqlite3_prepare_v2(db_, sql.data(), static_cast<int>(sql.size()), &statement, nullptr);
    auto rows = std::make_unique<SqliteRows>(db_, statement);
    for (size_t i = 0; code == SQLITE_OK && i < values.size(); ++i) {
      code = Bind(statement, static_cast<int>(i) + 1, values[i]);
    }
    SA_RETURN_IF_ERROR(ToStatus(code, db_));
    return rows;
  }
  absl::Status Script(const std::string& sql) override {
    return ToStatus(sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr), db_);
  }
  int64_t Changes() override { return sqlite3_changes(db_); }
  absl::StatusOr<int64_t> Now() override { return now_; }
  std::string For(Lock) const override { return ""; }
  absl::Status LockSchema() override { return absl::OkStatus(); }
  bool announced() const { return announced_; }

 private:
  sqlite3* const db_;
  const int64_t now_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Sqlite>> Sqlite::Open(const std::string& path,
                                                     std::shared_ptr<const Clock> clock,
                                                     std::function<void()> announce) {
  std::unique_ptr<Sqlite> db(new Sqlite(std::move(clock), std::move(announce)));
  const int code =
      sqlite3_open_v2(path.c_str(), &db->db_,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  if (code != SQLITE_OK) return Annotate(ToStatus(code, db->db_), path);
  sqlite3_busy_timeout(db->db_, 5000);
  SqliteSession session(db->db_, 0);
  for (const char* pragma :
       {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"}) {
    SA_RETURN_IF_ERROR(Annotate(session.Script(pragma), path));
  }
  return db;
}

Sqlite::~Sqlite() { sqlite3_close(db_); }

absl::Status Sqlite::Write(const Work& work) {
  bool announced = false;
  {
    const std::lock_guard<std::mutex> hold(mutex_);
    SqliteSession session(db_, absl::ToUnixMicros(clock_->Now()));
    SA_RETURN_IF_ERROR(session.Script("BEGIN IMMEDIATE"));
    absl::Status status = work(session);
    if (status.ok()) {
      ReachFailPoint("store.commit.before");
      status = session.Script("COMMIT");
    }
    if (!status.ok()) {
      session.Script("ROLLBACK").IgnoreError();
      return status;
    }
    ReachFailPoint("store.commit.after");
    announced = session.announced();
  }
  if (announced && announce_) announce_();
  return absl::OkStatus();
}

absl::Status Sqlite::Read(const Work& work) {
  const std::lock_guard<std::mutex> hold(mutex_);
  SqliteSession session(db_, absl::ToUnixMicros(clock_->Now()));
  return work(session);
}

absl::Status Sqlite::CopyTo(const std::string& path) {
  if (access(path.c_str(), F_OK) == 0) {
    return absl::AlreadyExistsError(absl::StrCat(path, ": exists already"));
  }
  return Annotate(
      Read([&](Session& session) { return Statement(session, "VACUUM INTO ?").Text(path).Run(); }),
      path);
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

}  // namespace shiftadd::sql
