// The SQLite driver behind sql.h.
#ifndef SHIFTADD_SERVICES_STORE_SQLITE_DB_H_
#define SHIFTADD_SERVICES_STORE_SQLITE_DB_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "services/base/clock.h"
#include "services/store/sql.h"

struct sqlite3;

namespace shiftadd::sql {

// One connection behind one mutex: the work in a transaction is microseconds, the rest is the
// disk's. Thread-safe.
class Sqlite : public Database {
 public:
  // Opens or makes the file: WAL, synchronous=FULL, foreign keys on, 5 s of patience with locks.
  // `announce` is called after every commit that announced itself; may be empty.
  static absl::StatusOr<std::unique_ptr<Sqlite>> Open(const std::string& path,
                                                      std::shared_ptr<const Clock> clock,
                                                      std::function<void()> announce = {});
  ~Sqlite() override;

  absl::Status Write(const Work& work) override;
  absl::Status Read(const Work& work) override;
  bool WasAway() override { return false; }  // a file does not go away
  absl::Time Now() override { return clock_->Now(); }

  // A consistent copy, made while others read and write. ALREADY_EXISTS if `path` does.
  absl::Status CopyTo(const std::string& path);

 private:
  Sqlite(std::shared_ptr<const Clock> clock, std::function<void()> announce)
      : clock_(std::move(clock)), announce_(std::move(announce)) {}

  const std::shared_ptr<const Clock> clock_;
  const std::function<void()> announce_;
  std::mutex mutex_;
  sqlite3* db_ = nullptr;
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

}  // namespace shiftadd::sql

#endif  // SHIFTADD_SERVICES_STORE_SQLITE_DB_H_
