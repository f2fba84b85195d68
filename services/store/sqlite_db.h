// A thin layer over the SQLite C API: statuses instead of codes, statements that clean up,
// transactions.
#ifndef SHIFTADD_SERVICES_STORE_SQLITE_DB_H_
#define SHIFTADD_SERVICES_STORE_SQLITE_DB_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct sqlite3;
struct sqlite3_stmt;

namespace shiftadd::sqlite {

// One prepared statement. Bind in order of the question marks, then Step. The first fault sticks
// and is returned by every later Step. Not thread-safe.
class Statement {
 public:
  Statement(sqlite3* db, absl::string_view sql);
  ~Statement();
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Int(int64_t value);
  Statement& Real(double value);
  Statement& Text(absl::string_view value);
  Statement& Blob(absl::string_view value);

  // True: a row is there to be read. False: done.
  absl::StatusOr<bool> Step();
  // For statements without rows.
  absl::Status Run();

  // Columns of the row, in order of the select list.
  int64_t GetInt();
  double GetReal();
  std::string GetText();  // or blob

 private:
  sqlite3* db_;
  sqlite3_stmt* stmt_ = nullptr;
  int bound_ = 0;
  int column_ = 0;
  absl::Status status_;
};

// A connection. Not thread-safe.
class Database {
 public:
  // Opens or makes the file: WAL, synchronous=FULL, foreign keys on, 5 s of patience with locks.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  sqlite3* get() { return db_; }
  absl::Status Execute(const std::string& sql);
  // Rows that the last statement changed.
  int Changes();

 private:
  Database() = default;
  sqlite3* db_ = nullptr;
};

// BEGIN IMMEDIATE … COMMIT; rolled back unless committed.
class Transaction {
 public:
  static absl::StatusOr<std::unique_ptr<Transaction>> Begin(Database* db);
  ~Transaction();
  absl::Status Commit();

 private:
  explicit Transaction(Database* db) : db_(db) {}
  Database* db_;
  bool open_ = true;
};

// An exclusive advisory lock on PATH.lock that ends with the object (and with the process).
class FileLock {
 public:
  // FAILED_PRECONDITION if somebody else holds it.
  static absl::StatusOr<std::unique_ptr<FileLock>> Take(const std::string& path);
  ~FileLock();

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace shiftadd::sqlite

#endif  // SHIFTADD_SERVICES_STORE_SQLITE_DB_H_
