// NAME[:TAG] as users give it.
#ifndef SHIFTADD_SERVICES_CLI_REFERENCE_H_
#define SHIFTADD_SERVICES_CLI_REFERENCE_H_

#include <string>

#include "absl/status/statusor.h"

namespace shiftadd::cli {

// "smollm2" -> "smollm2:latest"; anything else by the grammar of services/packaging/reference.h, so
// NAME@sha256:HEX too.
absl::StatusOr<std::string> NormalizeReference(const std::string& text);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_REFERENCE_H_
