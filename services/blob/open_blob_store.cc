#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
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
  std::error_code error;
  if (std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "SHIFTADD_REGISTRY_AUTH_FILE ", path, ": expected a file, found a folder, pipe or device"));
  }
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

absl::Status CheckLocation(const std::string& location) {
  const size_t scheme = location.find("://");
  if (scheme == std::string::npos) return absl::OkStatus();
  if (!IsRegistry(location)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", location, "\": expected http:// or https:// of a registry, or a folder"));
  }
  const size_t begin = scheme + 3;
  // Locations are written to logs. No host and no repository holds an '@'.
  if (absl::StrContains(location, '@')) {
    return absl::InvalidArgumentError(
        "a registry's location names no user and no password: expected "
        "http[s]://HOST[:PORT]/PREFIX "
        "and a file with USER:PASSWORD in SHIFTADD_REGISTRY_AUTH_FILE");
  }
  const std::string host = location.substr(begin, location.find('/', begin) - begin);
  const size_t bracket = host.rfind(']'), colon = host.rfind(':');
  const bool has_port =
      colon != std::string::npos && (bracket == std::string::npos || bracket < colon);
  int port = 0;
  if (has_port && (!absl::SimpleAtoi(host.substr(colon + 1), &port) || port < 1 || port > 65535)) {
    return absl::InvalidArgumentError(absl::StrCat("registry \"", location,
                                                   "\": port: expected 1 to 65535, found \"",
                                                   host.substr(colon + 1), "\""));
  }
  return absl::OkStatus();
}

absl::StatusOr<blob::RegistryOptions> RegistryOptionsFromEnvironment() {
  // Taken for absent, an empty one would trust other authorities, or show no credentials.
  for (const char* name : {"SHIFTADD_REGISTRY_CA_FILE", "SHIFTADD_REGISTRY_AUTH_FILE"}) {
    if (std::getenv(name) != nullptr && Variable(name).empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": is set to nothing; unset it if none is meant"));
    }
  }
  blob::RegistryOptions options;
  options.http.ca_file = Variable("SHIFTADD_REGISTRY_CA_FILE");
  const std::string credentials = Variable("SHIFTADD_REGISTRY_AUTH_FILE");
  if (!credentials.empty()) SA_RETURN_IF_ERROR(ReadCredentials(credentials, &options));
  return options;
}

absl::StatusOr<std::unique_ptr<BlobStore>> OpenBlobStore(const std::string& location,
                                                         StoreUse use) {
  SA_RETURN_IF_ERROR(CheckLocation(location));
  if (!IsRegistry(location)) return OpenOciLayout(location, use);
  SA_ASSIGN_OR_RETURN(const blob::RegistryOptions options, RegistryOptionsFromEnvironment());
  return OpenRegistry(location, options);
}

}  // namespace shiftadd
