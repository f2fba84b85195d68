// Asks a daemon whether it is ready.
#ifndef SHIFTADD_SERVICES_CLI_HTTP_PROBE_H_
#define SHIFTADD_SERVICES_CLI_HTTP_PROBE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace shiftadd::cli {

// GET http://ADDRESS/ready, or https if this program speaks TLS to the daemons. OK for status 200;
// UNAVAILABLE with the answer's text, or why there is none.
absl::Status ProbeReady(const std::string& address, absl::Duration timeout = absl::Seconds(2));

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_HTTP_PROBE_H_
