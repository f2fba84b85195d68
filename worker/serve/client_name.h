// Whose a request is, as far as the queue's shares and the rate of requests go.
#ifndef SHIFTADD_WORKER_SERVE_CLIENT_NAME_H_
#define SHIFTADD_WORKER_SERVE_CLIENT_NAME_H_

#include <string>

#include "absl/strings/string_view.h"
#include "services/access/rate_limit.h"

namespace shiftadd {

// A name that the caller has proved, by a key or else a certificate, else where it calls from.
// `authorization`: the header that was checked, empty if none was; `certificate`: the name in one
// that was verified; `peer`: an address, as HTTP has it or as gRPC writes it ("ipv4:1.2.3.4:567"),
// whose port does not count. A key stands as its digest: names may be written to logs.
std::string ClientName(absl::string_view authorization, absl::string_view certificate,
                       absl::string_view peer);

// Why one is refused that asks more often than `rates` lets him.
std::string TooOftenMessage(const access::RateLimit& rates);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_CLIENT_NAME_H_
