#include "services/cli/cluster_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iostream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/cli/context.h"
#include "services/cli/endpoints.h"

namespace shiftadd::cli {
namespace {

std::string LockFile(const std::string& data_dir) { return data_dir + "/cluster.lock"; }

// As a shell takes it for one word.
std::string ShellWord(const std::string& text) {
  const auto plain = [](unsigned char c) {
    return absl::ascii_isalnum(c) || absl::string_view("/._-+:").find(c) != absl::string_view::npos;
  };
  if (std::all_of(text.begin(), text.end(), plain)) return text;
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

}  // namespace

std::string DownCommand(const std::string& data_dir) {
  const Context without_flags{std::cout, std::cerr};
  if (data_dir == DataDir(without_flags)) return "shiftadd down";
  return absl::StrCat("shiftadd down --data-dir ", ShellWord(data_dir));
}

absl::StatusOr<ClusterLock> ClusterLock::Acquire(const std::string& data_dir) {
  const std::string path = LockFile(data_dir);
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return absl::InternalError(absl::StrCat(path, ": ", std::strerror(errno)));
  ClusterLock lock(fd);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::AlreadyExistsError(
        absl::StrCat(path, " is held: another `shiftadd up` starts or runs a cluster in ", data_dir,
                     "; wait until it is up, or stop it with: ", DownCommand(data_dir)));
  }
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd, 0) != 0 ||
      pwrite(fd, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return absl::InternalError(absl::StrCat("writing ", path, ": ", std::strerror(errno)));
  }
  return lock;
}

int ClusterLock::Holder(const std::string& data_dir) {
  const int fd = open(LockFile(data_dir).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  // A shared lock, so that two who only look do not see each other.
  int pid = 0;
  if (flock(fd, LOCK_SH | LOCK_NB) != 0) {
    char text[16] = {};
    if (pread(fd, text, sizeof(text) - 1, 0) <= 0 || !absl::SimpleAtoi(text, &pid)) pid = 0;
  }
  close(fd);
  return pid;
}

ClusterLock::~ClusterLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace shiftadd::cli
