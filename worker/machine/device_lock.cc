#include "worker/machine/device_lock.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shiftadd {
namespace {

struct Name {
  sockaddr_un address = {};
  socklen_t size = 0;
};

Name NameOf(const std::string& uuid) {
  Name name;
  name.address.sun_family = AF_UNIX;
  const std::string text = absl::StrCat("shiftadd-worker-", uuid);
  const size_t length = std::min(text.size(), sizeof(name.address.sun_path) - 1);
  std::memcpy(name.address.sun_path + 1, text.data(), length);  // a leading 0: abstract
  name.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
  return name;
}

// The process that listens there; 0: not known.
pid_t HolderOf(const Name& name) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return 0;
  ucred who = {};
  socklen_t size = sizeof(who);
  const bool known =
      connect(fd, reinterpret_cast<const sockaddr*>(&name.address), name.size) == 0 &&
      getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0;
  close(fd);
  return known ? who.pid : 0;
}

}  // namespace

absl::StatusOr<DeviceLock> DeviceLock::Take(const std::string& uuid) {
  const Name name = NameOf(uuid);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return absl::InternalError(absl::StrCat("socket: ", std::strerror(errno)));
  DeviceLock lock(fd);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&name.address), name.size) == 0 &&
      listen(fd, 16) == 0)
    return lock;
  if (errno != EADDRINUSE) return absl::InternalError(absl::StrCat("bind: ", std::strerror(errno)));
  const pid_t holder = HolderOf(name);
  return absl::FailedPreconditionError(
      absl::StrCat("it is used by another shiftadd-worker",
                   holder > 0 ? absl::StrCat(" (pid ", holder, ")") : std::string()));
}

DeviceLock::~DeviceLock() {
  if (socket_ >= 0) close(socket_);
}

absl::StatusOr<TakenGpu> TakeFreeGpu(const std::vector<Gpu>& gpus) {
  std::vector<std::string> faults;
  for (size_t i = 0; i < gpus.size(); ++i) {
    if (const std::string fault = GpuFault(gpus[i]); !fault.empty()) {
      faults.push_back(absl::StrCat("GPU ", i, " (", gpus[i].name, "): ", fault));
      continue;
    }
    absl::StatusOr<DeviceLock> lock = DeviceLock::Take(gpus[i].uuid);
    if (lock.ok()) return TakenGpu{i, std::move(*lock)};
    faults.push_back(absl::StrCat("GPU ", i, " (", gpus[i].name, "): ", lock.status().message()));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      absl::StrJoin(faults, "; "),
      ". A GPU takes one worker: start fewer workers, let this one "
      "use --device cpu, or share the GPU among N workers on purpose with --share-device N"));
}

}  // namespace shiftadd
