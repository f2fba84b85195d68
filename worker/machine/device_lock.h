// One worker a GPU.
#ifndef SHIFTADD_WORKER_MACHINE_DEVICE_LOCK_H_
#define SHIFTADD_WORKER_MACHINE_DEVICE_LOCK_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/machine/gpu.h"

namespace shiftadd {

// Held for as long as the object lives, at most as long as the process. It is a name in Linux's
// abstract socket namespace, which the kernel frees: no file is left behind, and no permission is
// in the way. Containers with network namespaces of their own do not see each other's.
class DeviceLock {
 public:
  // FAILED_PRECONDITION names the process that holds it.
  static absl::StatusOr<DeviceLock> Take(const std::string& uuid);
  DeviceLock(DeviceLock&& other) noexcept : socket_(std::exchange(other.socket_, -1)) {}
  DeviceLock& operator=(DeviceLock&& other) noexcept {
    std::swap(socket_, other.socket_);
    return *this;
  }
  ~DeviceLock();

 private:
  explicit DeviceLock(int socket) : socket_(socket) {}
  int socket_;
};

struct TakenGpu {
  size_t index = 0;  // in `gpus`
  DeviceLock lock;
};
// The first of `gpus` that no worker holds. FAILED_PRECONDITION names those who hold them.
absl::StatusOr<TakenGpu> TakeFreeGpu(const std::vector<Gpu>& gpus);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MACHINE_DEVICE_LOCK_H_
