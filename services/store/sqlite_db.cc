#include "services/store/sqlite_db.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "services/base/fail_point.h"
#include "services/base/status_macros.h"

namespace shiftadd::sql {
namespace {

constexpr int kReaders = 8;

void RemoveDatabase(const std::string& path) {
  unlink(path.c_str());
  unlink(absl::StrCat(path, "-journal").c_str());
}

// Gives a whole file its name, if nobody has it.
absl::Status Publish(const std::string& from, const std::string& to) {
  const int fd = open(from.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = fd >= 0 && fsync(fd) == 0;
  const int fault = errno;
  if (fd >= 0) close(fd);
  if (!synced) return absl::UnavailableError(std::strerror(fault));
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) {
    return absl::OkStatus();
  }
  if (errno == EEXIST) return absl::AlreadyExistsError("exists already");
  // Some file systems cannot say "if nobody has it"; that nobody had it was asked before.
  const bool unknown = errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP;
  if (unknown && rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return absl::UnavailableError(std::strerror(errno));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Sqlite>> Sqlite::Open(const std::string& path,
                                                     std::shared_ptr<const Clock> clock,
                                                     std::function<void(Change)> announce) {
  std::unique_ptr<Sqlite> db(new Sqlite(path, std::move(clock), std::move(announce)));
  SA_ASSIGN_OR_RETURN(db->writer_, SqliteConnection::Open(path));
  return db;
}

int64_t Sqlite::NowMicros() const { return absl::ToUnixMicros(clock_->Now()); }

// --- Writing -------------------------------------------------------------------------------------

void Sqlite::Commit(const std::vector<Request*>& batch) {
  Change announced = Change::kNone;
  const absl::Status status = CommitAll(batch, &announced);
  if (!status.ok()) {
    for (Request* request : batch) {
      if (request->status.ok()) request->status = status;
    }
    return;
  }
  if (announced != Change::kNone && announce_) announce_(announced);
}

absl::Status Sqlite::CommitAll(const std::vector<Request*>& batch, Change* announced) {
  SA_RETURN_IF_ERROR(writer_->Script("BEGIN IMMEDIATE"));
  bool any = false;
  for (Request* request : batch) {
    RunInSavepoint(request, announced);
    any |= request->status.ok();
    // A full disk, say, has ended the transaction, and with it what others had done in it.
    if (!writer_->in_transaction()) return request->status;
  }
  absl::Status status;
  if (any) {
    ReachFailPoint("store.commit.before");
    status = writer_->Script("COMMIT");
  }
  if (!any || !status.ok()) {
    writer_->Script("ROLLBACK").IgnoreError();
    return status;
  }
  ReachFailPoint("store.commit.after");
  return absl::OkStatus();
}

void Sqlite::RunInSavepoint(Request* request, Change* announced) {
  SqliteSession session(writer_.get(), NowMicros());
  request->status = session.Script("SAVEPOINT one");
  if (!request->status.ok()) return;
  request->status = (*request->work)(session);
  if (!request->status.ok()) session.Script("ROLLBACK TO one").IgnoreError();
  const absl::Status released = session.Script("RELEASE one");
  if (request->status.ok()) request->status = released;
  if (request->status.ok()) *announced = std::max(*announced, session.announced());
}

// --- Reading -------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<SqliteConnection>> Sqlite::TakeReader() {
  {
    std::unique_lock<std::mutex> hold(reader_mutex_);
    returned_.wait(hold, [&] { return lent_ < kReaders; });
    ++lent_;
    if (!readers_.empty()) {
      std::unique_ptr<SqliteConnection> reader = std::move(readers_.back());
      readers_.pop_back();
      return reader;
    }
  }
  auto reader = SqliteConnection::Open(path_);
  if (!reader.ok()) GiveBackReader(nullptr);
  return reader;
}

void Sqlite::GiveBackReader(std::unique_ptr<SqliteConnection> reader) {
  const std::lock_guard<std::mutex> hold(reader_mutex_);
  --lent_;
  if (reader != nullptr) readers_.push_back(std::move(reader));
  returned_.notify_one();
}

absl::Status Sqlite::Read(const Work& work) {
  SA_ASSIGN_OR_RETURN(std::unique_ptr<SqliteConnection> reader, TakeReader());
  SqliteSession session(reader.get(), NowMicros());
  const absl::Status status = work(session);
  GiveBackReader(std::move(reader));
  return status;
}

absl::Status Sqlite::CopyTo(const std::string& path) {
  if (access(path.c_str(), F_OK) == 0) {
    return absl::AlreadyExistsError(absl::StrCat(path, ": exists already"));
  }
  // Under another name until it is whole: half a copy, or an empty one, passes for a database.
  const std::string partial = absl::StrCat(path, ".", getpid(), ".partial");
  RemoveDatabase(partial);  // of one who had this number and was killed
  absl::Status status = Read(
      [&](Session& session) { return Statement(session, "VACUUM INTO ?").Text(partial).Run(); });
  if (status.ok()) status = Publish(partial, path);
  if (!status.ok()) RemoveDatabase(partial);
  return Annotate(status, path);
}

absl::Status Sqlite::CheckPages() {
  // Who starts a daemon waits a minute for it, and all of the file is read.
  constexpr int64_t kMostBytes = int64_t{1} << 30;
  return Read([](Session& session) -> absl::Status {
    Statement size(session,
                   "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size");
    SA_RETURN_IF_ERROR(size.Step().status());
    if (size.GetInt() > kMostBytes) return absl::OkStatus();
    Statement check(session, "PRAGMA quick_check(1)");
    SA_RETURN_IF_ERROR(check.Step().status());
    const std::string found = check.GetText();
    if (found == "ok") return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("the database is damaged: ", found, "; put a copy (--backup) in its place"));
  });
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
