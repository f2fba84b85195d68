// One connection to a SQLite file and the statements prepared on it.
#ifndef SHIFTADD_SERVICES_STORE_SQLITE_CONNECTION_H_
#define SHIFTADD_SERVICES_STORE_SQLITE_CONNECTION_H_

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/store/sql.h"

struct sqlite3;
struct sqlite3_stmt;

namespace shiftadd::sql {

// Not thread-safe.
class SqliteConnection {
 public:
  // Opens or makes the file: WAL, synchronous=FULL, foreign keys on, 5 s of patience with locks.
  static absl::StatusOr<std::unique_ptr<SqliteConnection>> Open(const std::string& path);
  ~SqliteConnection();

  // A statement with its values; it goes back to the others when its rows are no longer needed.
  absl::StatusOr<std::unique_ptr<Rows>> Execute(const std::string& sql,
                                                const std::vector<Value>& values);
  // Several statements without values or rows.
  absl::Status Script(const char* sql);
  int64_t changes() const;
  bool in_transaction() const;

 private:
  class SqliteRows;

  explicit SqliteConnection(sqlite3* db) : db_(db) {}
  absl::StatusOr<sqlite3_stmt*> Prepare(const std::string& sql);

  sqlite3* const db_;
  std::unordered_map<std::string, std::vector<sqlite3_stmt*>> idle_;  // by their text
};

// A transaction, or a part of one, as the stores see it.
class SqliteSession : public Session {
 public:
  SqliteSession(SqliteConnection* connection, int64_t now) : connection_(connection), now_(now) {}

  absl::StatusOr<std::unique_ptr<Rows>> Execute(const std::string& sql,
                                                const std::vector<Value>& values) override {
    return connection_->Execute(sql, values);
  }
  absl::Status Script(const std::string& sql) override { return connection_->Script(sql.c_str()); }
  int64_t Changes() override { return connection_->changes(); }
  absl::StatusOr<int64_t> Now() override { return now_; }
  std::string For(Lock) const override { return ""; }
  absl::Status LockSchema() override { return absl::OkStatus(); }
  Change announced() const { return announced_; }

 private:
  SqliteConnection* const connection_;
  const int64_t now_;
};

}  // namespace shiftadd::sql

#endif  // SHIFTADD_SERVICES_STORE_SQLITE_CONNECTION_H_
