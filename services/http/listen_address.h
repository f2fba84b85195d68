// Where a daemon listens, and whether that is this machine only.
#ifndef SHIFTADD_SERVICES_HTTP_LISTEN_ADDRESS_H_
#define SHIFTADD_SERVICES_HTTP_LISTEN_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shiftadd {

struct ListenAddress {
  std::string host;       // without brackets
  int port = 0;           // 0: any free one
  bool loopback = false;  // every address that `host` stands for is a loopback address
};

// What is wrong with how "host:port" or "[v6]:port" is written, to be read after the name of where
// it stands; "" if nothing is. Names are not resolved. A check as CLI11 wants it.
std::string ListenAddressFault(const std::string& address);

// Takes "host:port" and "[v6]:port"; resolves names. INVALID_ARGUMENT names what is wrong.
absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& address);

// What every daemon does before it binds: parses; FAILED_PRECONDITION if the address reaches beyond
// loopback and that was not `allowed_beyond_loopback`, or if it is in use (or cannot be bound for
// another reason).
absl::StatusOr<ListenAddress> CheckListenAddress(const std::string& address,
                                                 bool allowed_beyond_loopback);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_HTTP_LISTEN_ADDRESS_H_
