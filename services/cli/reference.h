// NAME[:TAG] as users give it.
#ifndef SHIFTADD_SERVICES_CLI_REFERENCE_H_
#define SHIFTADD_SERVICES_CLI_REFERENCE_H_

#include <string>

#include "absl/status/statusor.h"

namespace shiftadd::cli {

// "smollm2" -> "smollm2:latest". INVALID_ARGUMENT unless the name is an OCI repository name
// (lower-case letters, digits and single . _ - or / between them) and the tag 1..128 of
// [A-Za-z0-9_.-]. Also takes NAME@sha256:HEX.
absl::StatusOr<std::string> NormalizeReference(const std::string& text);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_REFERENCE_H_
