// Files as a store needs them: locked, durable, with errors that name the path.
#ifndef SHIFTADD_SERVICES_BLOB_POSIX_FILE_H_
#define SHIFTADD_SERVICES_BLOB_POSIX_FILE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shiftadd::blob {

// "WHAT PATH: reason" with the code that fits `error`: no space, quota or file size limit are
// RESOURCE_EXHAUSTED, a missing file NOT_FOUND, a refused one PERMISSION_DENIED, the rest
// UNAVAILABLE.
absl::Status ErrnoStatus(int error, absl::string_view what, absl::string_view path);

// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd();
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// open(2), close-on-exec, mode 0644.
absl::StatusOr<Fd> Open(const std::string& path, int flags);
absl::StatusOr<uint64_t> SizeOf(const Fd& fd, const std::string& path);
// At most `length` bytes from `offset`; fewer only at the end of the file.
absl::StatusOr<std::string> ReadAt(const Fd& fd, const std::string& path, uint64_t offset,
                                   uint64_t length);
absl::Status WriteAll(const Fd& fd, const std::string& path, absl::string_view data);
absl::Status SyncDirectory(const std::string& dir);
// Makes `dir` and its parents.
absl::Status MakeDirectories(const std::string& dir);

// An flock on `path` (made if absent), held until destruction. Also excludes threads of this
// process: each lock has its own open file.
class FileLock {
 public:
  enum Mode { kShared, kExclusive };
  static absl::StatusOr<FileLock> Acquire(const std::string& path, Mode mode);

 private:
  explicit FileLock(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

// A new file in `dir` that is removed unless it is renamed into place. Its writer holds an flock on
// it, so RemoveStaleTempFiles can tell a dead writer's file from a live one's.
class TempFile {
 public:
  static absl::StatusOr<TempFile> Create(const std::string& dir);
  TempFile(TempFile&& other) noexcept;
  TempFile& operator=(TempFile&&) = delete;
  ~TempFile();

  absl::Status Append(absl::string_view data);
  // fsync, rename to `target` (replacing it), fsync of its folder.
  absl::Status MoveTo(const std::string& target);
  const std::string& path() const { return path_; }
  const Fd& fd() const { return fd_; }

 private:
  TempFile(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  std::string path_;  // empty once it is moved
  Fd fd_;
};

// Removes temp files in `dir` that no live process writes and that are older than a minute.
void RemoveStaleTempFiles(const std::string& dir);

}  // namespace shiftadd::blob

#endif  // SHIFTADD_SERVICES_BLOB_POSIX_FILE_H_
