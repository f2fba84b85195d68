// One supervisor for a data directory.
#ifndef SHIFTADD_SERVICES_CLI_CLUSTER_LOCK_H_
#define SHIFTADD_SERVICES_CLI_CLUSTER_LOCK_H_

#include <string>

#include "absl/status/statusor.h"

namespace shiftadd::cli {

// The command that ends the supervisor of this folder, as one types it.
std::string DownCommand(const std::string& data_dir);

// Holds DATA/cluster.lock (flock, so the kernel lets go when the process ends, however it ends)
// with the holder's pid in it. Movable.
class ClusterLock {
 public:
  // ALREADY_EXISTS while another process holds it.
  static absl::StatusOr<ClusterLock> Acquire(const std::string& data_dir);
  // The pid of the process that holds it; 0 if nobody does.
  static int Holder(const std::string& data_dir);

  ClusterLock(ClusterLock&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  ClusterLock& operator=(ClusterLock&&) = delete;
  ~ClusterLock();

 private:
  explicit ClusterLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_CLUSTER_LOCK_H_
