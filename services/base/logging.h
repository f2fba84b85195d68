// Process-wide logging through spdlog: one line an event, to stderr.
#ifndef SHIFTADD_SERVICES_BASE_LOGGING_H_
#define SHIFTADD_SERVICES_BASE_LOGGING_H_

#include <spdlog/spdlog.h>

#include "absl/strings/string_view.h"

namespace shiftadd {

// Call once at the start of main. `level`: trace, debug, info, warn, error; anything else is info.
// The environment variable SHIFTADD_LOG_LEVEL wins over `level`.
void InitLogging(absl::string_view process, absl::string_view level = "info");

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_LOGGING_H_
