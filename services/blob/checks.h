// What every store refuses. Internal to services/blob.
#ifndef SHIFTADD_SERVICES_BLOB_CHECKS_H_
#define SHIFTADD_SERVICES_BLOB_CHECKS_H_

#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace shiftadd::blob {

// INVALID_ARGUMENT unless it is 1 to 128 of [A-Za-z0-9._-], the first no dot.
absl::Status ValidateJob(const std::string& job);
// Discarded if it is not JSON, or nested more deeply than any manifest.
nlohmann::json ParseJson(const std::string& text);
// INVALID_ARGUMENT unless it is an object whose mediaType, digest and size are there, and whose
// artifactType and annotations are what they should be where they are there. Messages begin with
// `where` and the field: "manifests[0].digest: ...".
absl::Status CheckDescriptor(const nlohmann::json& descriptor,
                             const std::string& where = "descriptor");

}  // namespace shiftadd::blob

#endif  // SHIFTADD_SERVICES_BLOB_CHECKS_H_
