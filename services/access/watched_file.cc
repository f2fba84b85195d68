#include "services/access/watched_file.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace shiftadd::access {
namespace {
constexpr absl::Duration kLookAgain = absl::Seconds(1);
}  // namespace

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, int64_t max_bytes) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": cannot be read: ", std::strerror(errno)));
  }
  // A pipe may never end, or never begin; it could not be read again either.
  if (!S_ISREG(info.st_mode) || info.st_size > max_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(path,
                     S_ISDIR(info.st_mode)    ? ": is a directory: "
                     : !S_ISREG(info.st_mode) ? ": is a pipe or a device: "
                                              : absl::StrCat(": has ", info.st_size, " bytes: "),
                     "expected a file of at most ", max_bytes, " bytes"));
  }
  std::ifstream in(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(in)), {});
  if (!in) return absl::FailedPreconditionError(absl::StrCat(path, ": cannot be read"));
  return text;
}

bool WatchedFile::Changed() {
  const absl::Time now = absl::Now();
  if (now < looked_ + kLookAgain) return false;
  looked_ = now;
  struct stat info {};
  std::string stamp = "absent";
  if (stat(path_.c_str(), &info) == 0) {
    stamp = absl::StrCat(info.st_dev, ":", info.st_ino, ":", info.st_size, ":", info.st_mtim.tv_sec,
                         ".", info.st_mtim.tv_nsec);
  }
  if (stamp == stamp_) return false;
  stamp_ = stamp;
  return true;
}

}  // namespace shiftadd::access
