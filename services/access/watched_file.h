// A small file that is read again when it has changed.
#ifndef SHIFTADD_SERVICES_ACCESS_WATCHED_FILE_H_
#define SHIFTADD_SERVICES_ACCESS_WATCHED_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace shiftadd::access {

// FAILED_PRECONDITION names the path and why. What is no file or has more than `max_bytes` is
// refused unread.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, int64_t max_bytes = 1 << 20);

// Says when to look again. Not thread-safe.
class WatchedFile {
 public:
  explicit WatchedFile(std::string path) : path_(std::move(path)) {}
  // True at the first call, and when the file at the path is another or was written since the last
  // true one. Looks at most once a second.
  bool Changed();
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
  std::string stamp_;  // device, inode, size and times
  absl::Time looked_ = absl::InfinitePast();
};

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_WATCHED_FILE_H_
