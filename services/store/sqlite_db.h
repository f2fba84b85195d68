// The SQLite driver behind sql.h.
#ifndef SHIFTADD_SERVICES_STORE_SQLITE_DB_H_
#define SHIFTADD_SERVICES_STORE_SQLITE_DB_H_

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "services/base/clock.h"
#include "services/store/group_commit.h"
#include "services/store/sql.h"
#include "services/store/sqlite_connection.h"

namespace shiftadd::sql {

// One connection that writes and a few that read; readers wait for nobody. What is written is on
// the disk before Write returns; what is written at the same time is so with one wait for the disk,
// each in a savepoint of its own. Thread-safe.
class Sqlite : public Database {
 public:
  // Opens or makes the file (sqlite_connection.h). `announce` is called after every commit that
  // announced something, on the thread that committed; may be empty.
  static absl::StatusOr<std::unique_ptr<Sqlite>> Open(const std::string& path,
                                                      std::shared_ptr<const Clock> clock,
                                                      std::function<void(Change)> announce = {});

  absl::Status Write(const Work& work) override { return group_.Write(work); }
  absl::Status Read(const Work& work) override;
  bool WasAway() override { return false; }  // a file does not go away
  absl::Time Now() override { return clock_->Now(); }

  // A consistent copy, made while others read and write. ALREADY_EXISTS if `path` does.
  absl::Status CopyTo(const std::string& path);
  // Reads all of it. DATA_LOSS: a page is damaged, which otherwise shows when that page is asked
  // for.
  absl::Status CheckPages();

 private:
  using Request = GroupCommit::Request;

  Sqlite(const std::string& path, std::shared_ptr<const Clock> clock,
         std::function<void(Change)> announce)
      : path_(path),
        clock_(std::move(clock)),
        announce_(std::move(announce)),
        group_([this](const std::vector<Request*>& batch) { Commit(batch); }) {}

  int64_t NowMicros() const;
  void Commit(const std::vector<Request*>& batch);
  absl::Status CommitAll(const std::vector<Request*>& batch, Change* announced);
  void RunInSavepoint(Request* request, Change* announced);
  absl::StatusOr<std::unique_ptr<SqliteConnection>> TakeReader();
  void GiveBackReader(std::unique_ptr<SqliteConnection> reader);

  const std::string path_;
  const std::shared_ptr<const Clock> clock_;
  const std::function<void(Change)> announce_;

  std::unique_ptr<SqliteConnection> writer_;  // of whoever commits
  GroupCommit group_;

  std::mutex reader_mutex_;
  std::condition_variable returned_;
  std::vector<std::unique_ptr<SqliteConnection>> readers_;  // idle; under reader_mutex_
  int lent_ = 0;                                            // under reader_mutex_
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
