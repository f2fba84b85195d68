// One connection of libpq: statuses instead of result codes, statements prepared once.
#ifndef SHIFTADD_SERVICES_STORE_POSTGRES_CONNECTION_H_
#define SHIFTADD_SERVICES_STORE_POSTGRES_CONNECTION_H_

#include <libpq-fe.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/store/postgres_url.h"
#include "services/store/sql.h"

namespace shiftadd::sql {

struct ResultFree {
  void operator()(PGresult* result) const { PQclear(result); }
};
using PostgresResult = std::unique_ptr<PGresult, ResultFree>;

// What a failed statement means for its transaction.
enum class PostgresFault {
  kNone,
  kConflict,  // serialization failure or deadlock: run it again
  kLost,      // the connection is gone, and the transaction with it
  kOther,
};

// Not thread-safe.
class PostgresConnection {
 public:
  // UNAVAILABLE if the server does not answer, FAILED_PRECONDITION if it refuses who we are.
  static absl::StatusOr<std::unique_ptr<PostgresConnection>> Connect(const PostgresUrl& url);
  ~PostgresConnection();
  PostgresConnection(const PostgresConnection&) = delete;
  PostgresConnection& operator=(const PostgresConnection&) = delete;

  // Fixed text, perhaps several statements; the last one's result, in text form.
  absl::StatusOr<PostgresResult> Simple(const std::string& sql);
  // Prepared on first use; `?` stands for values in order. The result is in binary form.
  absl::StatusOr<PostgresResult> Prepared(const std::string& sql, const std::vector<Value>& values);

  // Of the last statement that failed.
  PostgresFault fault() const { return fault_; }
  // Before a new transaction; what is lost stays so.
  void ClearFault() {
    if (fault_ != PostgresFault::kLost) fault_ = PostgresFault::kNone;
  }
  bool lost() const { return fault_ == PostgresFault::kLost || PQstatus(raw_) != CONNECTION_OK; }
  PGconn* raw() const { return raw_; }

 private:
  PostgresConnection(PGconn* raw, PostgresUrl url) : raw_(raw), url_(std::move(url)) {}
  absl::StatusOr<PostgresResult> Check(PGresult* result);

  PGconn* const raw_;
  const PostgresUrl url_;
  std::map<std::string, std::string> prepared_;  // name by text
  PostgresFault fault_ = PostgresFault::kNone;
};

}  // namespace shiftadd::sql

#endif  // SHIFTADD_SERVICES_STORE_POSTGRES_CONNECTION_H_
