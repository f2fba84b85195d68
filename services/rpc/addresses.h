// Several addresses of daemons that answer alike: one is used until it is away.
#ifndef SHIFTADD_SERVICES_RPC_ADDRESSES_H_
#define SHIFTADD_SERVICES_RPC_ADDRESSES_H_

#include <cstddef>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace shiftadd::rpc {

// The parts of "host:port,host:port"; spaces around them and empty ones are left out.
std::vector<std::string> SplitAddresses(absl::string_view list);

// Which of several daemons to call. Whoever calls names the one it has called and how that ended.
// Thread-safe.
class Rotation {
 public:
  explicit Rotation(size_t size) : size_(size) {}

  size_t current() const;
  // UNAVAILABLE and DEADLINE_EXCEEDED of the present one move on to the next. True if one is left
  // that has not failed since a call last succeeded: it is worth trying at once. False: all have,
  // or the status is of another kind.
  bool Note(size_t called, const absl::Status& status);

 private:
  const size_t size_;
  mutable std::mutex mutex_;
  size_t current_ = 0;
  size_t failed_ = 0;  // in a row
};

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_ADDRESSES_H_
