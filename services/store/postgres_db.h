// The PostgreSQL driver behind sql.h.
#ifndef SHIFTADD_SERVICES_STORE_POSTGRES_DB_H_
#define SHIFTADD_SERVICES_STORE_POSTGRES_DB_H_

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/base/clock.h"
#include "services/store/postgres_connection.h"
#include "services/store/postgres_url.h"
#include "services/store/sql.h"

namespace shiftadd::sql {

struct PostgresOptions {
  std::shared_ptr<const Clock> clock;  // null: the server's
  // After every commit that announced something, on the thread that committed; may be empty.
  std::function<void(Change)> announce;
  std::string isolation = "READ COMMITTED";
  int connections = 8;
};

// A few connections, lent to one transaction each. A transaction that meets a conflict, or a
// connection that had died, is run again; a server that does not answer is UNAVAILABLE, and is
// found again by whatever is asked next. Thread-safe.
class Postgres : public Database {
 public:
  // Connects once to see that it can be done.
  static absl::StatusOr<std::unique_ptr<Postgres>> Connect(const PostgresUrl& url,
                                                           PostgresOptions options);

  absl::Status Write(const Work& work) override;
  absl::Status Read(const Work& work) override;
  bool WasAway() override { return away_.exchange(false); }
  absl::Time Now() override;

  const PostgresUrl& url() const { return url_; }

 private:
  Postgres(PostgresUrl url, PostgresOptions options);

  enum class Mode { kRead, kWrite };
  // What became of one try.
  struct Try {
    absl::Status status;
    bool again = false;
  };
  absl::Status Run(Mode mode, const Work& work);
  Try RunOnce(Mode mode, PostgresConnection* connection, const Work& work, Change* announced);
  absl::StatusOr<int64_t> Begin(PostgresConnection* connection);
  static absl::Status Commit(PostgresConnection* connection);

  absl::StatusOr<std::unique_ptr<PostgresConnection>> Take();
  void GiveBack(std::unique_ptr<PostgresConnection> connection);

  const PostgresUrl url_;
  const PostgresOptions options_;

  std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<std::unique_ptr<PostgresConnection>> idle_;  // under mutex_
  int lent_ = 0;                                           // under mutex_

  std::atomic<bool> connected_{false};  // once
  std::atomic<bool> away_{false};
  std::atomic<int64_t> offset_{0};  // of the server's clock to ours, microseconds
};

}  // namespace shiftadd::sql

#endif  // SHIFTADD_SERVICES_STORE_POSTGRES_DB_H_
