#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/blob/blob_store.h"
#include "services/blob/registry_store.h"

namespace shiftadd {
namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

absl::Status ReadCredentials(const std::string& path, blob::RegistryOptions* options) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  const size_t colon = line.find(':');
  if (!file || colon == 0 || colon == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("SHIFTADD_REGISTRY_AUTH_FILE ", path, ": expected a line USER:PASSWORD"));
  }
  options->user = line.substr(0, colon);
  options->password = line.substr(colon + 1);
  return absl::OkStatus();
}

}  // namespace

bool IsRegistry(absl::string_view location) {
  return absl::StartsWith(location, "http://") || absl::StartsWith(location, "https://");
}

absl::StatusOr<blob::RegistryOptions> RegistryOptionsFromEnvironment() {
  blob::RegistryOptions options;
  options.http.ca_file = Variable("SHIFTADD_REGISTRY_CA_FILE");
  const std::string credentials = Variable("SHIFTADD_REGISTRY_AUTH_FILE");
  if (!credentials.empty()) SA_RETURN_IF_ERROR(ReadCredentials(credentials, &options));
  return options;
}

absl::StatusOr<std::unique_ptr<BlobStore>> OpenBlobStore(const std::string& location) {
  if (!IsRegistry(location)) return OpenOciLayout(location);
  SA_ASSIGN_OR_RETURN(const blob::RegistryOptions options, RegistryOptionsFromEnvironment());
  return OpenRegistry(location, options);
}

}  // namespace shiftadd
