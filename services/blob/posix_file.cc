#include "services/blob/posix_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "services/base/fail_point.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"

namespace shiftadd::blob {
namespace {

constexpr char kTempPrefix[] = "tmp-";
constexpr int kStaleSeconds = 60;

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::StatusCode::kResourceExhausted;
    case ENOENT:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case EEXIST:
    case ENOTDIR:
    case EISDIR:
      return absl::StatusCode::kFailedPrecondition;
    case EIO:
      return absl::StatusCode::kDataLoss;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

}  // namespace

absl::Status ErrnoStatus(int error, absl::string_view what, absl::string_view path) {
  return absl::Status(CodeOf(error), absl::StrCat(what, " ", path, ": ", std::strerror(error)));
}

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<Fd> Open(const std::string& path, int flags) {
  // A pipe in place of a file would wait for its writer.
  if ((flags & O_ACCMODE) == O_RDONLY) flags |= O_NONBLOCK;
  int fd;
  do {
    fd = open(path.c_str(), flags | O_CLOEXEC, 0644);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  return Fd(fd);
}

absl::StatusOr<uint64_t> SizeOf(const Fd& fd, const std::string& path) {
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, "stat", path);
  return static_cast<uint64_t>(st.st_size);
}

absl::StatusOr<std::string> ReadAt(const Fd& fd, const std::string& path, uint64_t offset,
                                   uint64_t length) {
  SA_ASSIGN_OR_RETURN(const uint64_t size, SizeOf(fd, path));
  std::string data(offset >= size ? 0 : std::min(length, size - offset), '\0');
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t n =
        pread(fd.get(), data.data() + done, data.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "read", path);
    if (n == 0) break;  // it was cut while we read
    done += static_cast<size_t>(n);
  }
  data.resize(done);
  return data;
}

absl::Status WriteAll(const Fd& fd, const std::string& path, absl::string_view data) {
  while (!data.empty()) {
    const ssize_t n = write(fd.get(), data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "write", path);
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status SyncDirectory(const std::string& dir) {
  SA_ASSIGN_OR_RETURN(const Fd fd, Open(dir, O_RDONLY | O_DIRECTORY));
  if (fsync(fd.get()) != 0) return ErrnoStatus(errno, "fsync", dir);
  return absl::OkStatus();
}

absl::Status MakeDirectories(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return ErrnoStatus(error.value(), "make folder", dir);
  return absl::OkStatus();
}

absl::StatusOr<FileLock> FileLock::Acquire(const std::string& path, Mode mode) {
  SA_ASSIGN_OR_RETURN(Fd fd, Open(path, O_RDWR | O_CREAT));
  while (flock(fd.get(), mode == kShared ? LOCK_SH : LOCK_EX) != 0) {
    if (errno != EINTR) return ErrnoStatus(errno, "lock", path);
  }
  return FileLock(std::move(fd));
}

absl::StatusOr<TempFile> TempFile::Create(const std::string& dir) {
  const std::string path = absl::StrCat(dir, "/", NewId("tmp"));
  SA_ASSIGN_OR_RETURN(Fd fd, Open(path, O_RDWR | O_CREAT | O_EXCL));
  flock(fd.get(), LOCK_EX | LOCK_NB);
  return TempFile(path, std::move(fd));
}

TempFile::TempFile(TempFile&& other) noexcept
    : path_(std::exchange(other.path_, std::string())), fd_(std::move(other.fd_)) {}

TempFile::~TempFile() {
  if (!path_.empty()) unlink(path_.c_str());
}

absl::Status TempFile::Append(absl::string_view data) { return WriteAll(fd_, path_, data); }

absl::Status TempFile::MoveTo(const std::string& target) {
  if (fsync(fd_.get()) != 0) return ErrnoStatus(errno, "fsync", path_);
  ReachFailPoint("blob.rename.before");
  if (rename(path_.c_str(), target.c_str()) != 0) return ErrnoStatus(errno, "rename to", target);
  path_.clear();
  ReachFailPoint("blob.rename.after");
  return SyncDirectory(std::filesystem::path(target).parent_path().string());
}

void RemoveStaleTempFiles(const std::string& dir) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    const std::string path = entry.path().string();
    if (entry.path().filename().string().rfind(kTempPrefix, 0) != 0) continue;
    absl::StatusOr<Fd> fd = Open(path, O_RDONLY);
    struct stat st;
    if (!fd.ok() || fstat(fd->get(), &st) != 0) continue;
    if (std::time(nullptr) - st.st_mtime < kStaleSeconds) continue;
    if (flock(fd->get(), LOCK_EX | LOCK_NB) == 0) unlink(path.c_str());
  }
}

}  // namespace shiftadd::blob
