// Texts into the blob store.
#ifndef SHIFTADD_SERVICES_CLI_UPLOAD_H_
#define SHIFTADD_SERVICES_CLI_UPLOAD_H_

#include <string>

#include "absl/status/statusor.h"
#include "services/cli/clients.h"

namespace shiftadd::cli {

// Sends a file of at most 1 GiB to the packager and returns its digest; what is there already is
// not sent again. INVALID_ARGUMENT: empty; NOT_FOUND: no such file; DATA_LOSS: the packager got
// other bytes.
absl::StatusOr<std::string> UploadText(const PackageClient& client, const std::string& path);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_UPLOAD_H_
