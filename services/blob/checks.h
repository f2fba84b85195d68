// What every store refuses. Internal to services/blob.
#ifndef SHIFTADD_SERVICES_BLOB_CHECKS_H_
#define SHIFTADD_SERVICES_BLOB_CHECKS_H_

#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace shiftadd::blob {

// INVALID_ARGUMENT unless it is 1 to 128 of [A-Za-z0-9._-], the first no dot.
absl::Status ValidateJob(const std::string& job);
// INVALID_ARGUMENT unless it is an object with mediaType, digest and size.
absl::Status CheckDescriptor(const nlohmann::json& descriptor);

}  // namespace shiftadd::blob

#endif  // SHIFTADD_SERVICES_BLOB_CHECKS_H_
