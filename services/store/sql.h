// What the stores need of a database: transactions and prepared statements. Two drivers stand
// behind it (sqlite_db.h, postgres_db.h); the verbs above are written once.
#ifndef SHIFTADD_SERVICES_STORE_SQL_H_
#define SHIFTADD_SERVICES_STORE_SQL_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/store/change_signal.h"

namespace shiftadd::sql {

struct Value {
  enum class Type { kInt, kReal, kText, kBlob };
  Type type = Type::kInt;
  int64_t number = 0;
  double real = 0;
  std::string bytes;  // of a text (UTF-8 without NUL) or blob
};

// The answer to one statement.
class Rows {
 public:
  virtual ~Rows() = default;
  // Moves to the next row; false: there is none.
  virtual absl::StatusOr<bool> Next() = 0;
  // Of the present row.
  virtual int64_t Int(int column) const = 0;
  virtual double Real(int column) const = 0;
  virtual std::string Bytes(int column) const = 0;
};

enum class Lock {
  kWait,        // rows that another transaction holds are waited for
  kSkipLocked,  // … are left out
};

// One connection, usually inside a transaction. Not thread-safe. After the first fault of a
// statement nothing but the transaction's end is of use.
class Session {
 public:
  virtual ~Session() = default;
  // Question marks stand for `values`, in order. What the statement does may happen as late as when
  // its rows have been read to the end.
  virtual absl::StatusOr<std::unique_ptr<Rows>> Execute(const std::string& sql,
                                                        const std::vector<Value>& values) = 0;
  // Several statements without values or rows; for schemas.
  virtual absl::Status Script(const std::string& sql) = 0;
  // Rows that the last statement changed.
  virtual int64_t Changes() = 0;
  // Microseconds since the Unix epoch, by the store's clock; stands still during a transaction.
  virtual absl::StatusOr<int64_t> Now() = 0;
  // To put behind a SELECT: keeps its rows for this transaction. Empty where a transaction has the
  // database to itself.
  virtual std::string For(Lock lock) const = 0;
  // Waits until no other transaction is changing the schema; until this one's end.
  virtual absl::Status LockSchema() = 0;
  // When the transaction commits, everybody who waits for such a change is told.
  void Announce(Change change = Change::kAny) { announced_ = std::max(announced_, change); }

 protected:
  Change announced_ = Change::kNone;
};

// Thread-safe.
class Database {
 public:
  using Work = std::function<absl::Status(Session&)>;

  virtual ~Database() = default;
  // Runs `work` in a transaction and commits if it answers OK; otherwise nothing has happened. It
  // may be run several times, so it must set what it gives anew each time, and on another thread
  // while the caller waits. UNAVAILABLE may also mean that the answer to the commit was lost.
  virtual absl::Status Write(const Work& work) = 0;
  // For work that changes nothing: each of its statements sees what is committed by then.
  virtual absl::Status Read(const Work& work) = 0;
  // True if the database could not be reached since the last call: leases may have run out although
  // their workers were alive.
  virtual bool WasAway() = 0;
  // The store's time, as far as it is known without asking.
  virtual absl::Time Now() = 0;
};

// `work` gives a StatusOr of what the transaction gives.
template <typename Work, typename Result = std::invoke_result_t<Work, Session&>>
Result Write(Database* database, const Work& work) {
  Result result = absl::UnknownError("no transaction was begun");
  const absl::Status status = database->Write([&](Session& session) {
    result = work(session);
    return result.status();
  });
  if (!status.ok()) return status;
  return result;
}

template <typename Work, typename Result = std::invoke_result_t<Work, Session&>>
Result Read(Database* database, const Work& work) {
  Result result = absl::UnknownError("nothing was read");
  const absl::Status status = database->Read([&](Session& session) {
    result = work(session);
    return result.status();
  });
  if (!status.ok()) return status;
  return result;
}

// One statement: bind in order of the question marks, then Step or Run. Not thread-safe.
class Statement {
 public:
  Statement(Session& session, std::string sql) : session_(session), sql_(std::move(sql)) {}
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Int(int64_t value);
  Statement& Real(double value);
  Statement& Text(absl::string_view value);
  Statement& Blob(absl::string_view value);

  // True: a row is there to be read. False: done.
  absl::StatusOr<bool> Step();
  // To the end, whatever rows there are.
  absl::Status Run();

  // Columns of the row, in order of the select list.
  int64_t GetInt() { return rows_->Int(column_++); }
  double GetReal() { return rows_->Real(column_++); }
  std::string GetText() { return rows_->Bytes(column_++); }  // or blob

 private:
  Session& session_;
  const std::string sql_;
  std::vector<Value> values_;
  std::unique_ptr<Rows> rows_;
  int column_ = 0;
};

// Rows of one INSERT: few enough that each number of them can be a statement prepared once.
inline constexpr size_t kRowsAtATime = 16;
// "ROW, ROW, …", `count` times.
std::string ValueRows(absl::string_view row, size_t count);

// Brings the database to the newest version: element i of `steps` takes it from version i to i + 1,
// and table `versions` remembers. All in one transaction. FAILED_PRECONDITION if the database is
// newer than `steps`.
absl::Status Migrate(Database* database, const std::string& versions,
                     const std::vector<std::string>& steps);

}  // namespace shiftadd::sql

#endif  // SHIFTADD_SERVICES_STORE_SQL_H_
