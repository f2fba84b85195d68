#include "worker/serve/api_keys.h"

#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "services/base/digest.h"

namespace shiftadd {

absl::StatusOr<std::unique_ptr<ApiKeys>> ApiKeys::FromFile(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": is a directory"));
  }
  std::ifstream file(path);
  if (!file) return absl::FailedPreconditionError(absl::StrCat(path, ": cannot be read"));
  auto keys = std::make_unique<ApiKeys>();
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    absl::string_view rest = line;
    // An editor's byte order mark would be a part of the first key, which nobody sends.
    if (number == 1) absl::ConsumePrefix(&rest, "\xef\xbb\xbf");
    const std::string key(absl::StripAsciiWhitespace(rest));
    if (key.empty() || key[0] == '#') continue;
    if (!absl::StartsWith(key, "sha256:")) {
      keys->digests_.insert(Sha256Digest(key));
    } else if (ValidateDigest(key).ok()) {
      keys->digests_.insert(key);
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": expected 64 lower-case hex digits behind sha256:"));
    }
  }
  if (keys->digests_.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": holds no key"));
  }
  return keys;
}

absl::string_view KeyOf(absl::string_view authorization) {
  constexpr absl::string_view kBearer = "bearer ";
  if (!absl::StartsWithIgnoreCase(authorization, kBearer)) return "";
  return absl::StripAsciiWhitespace(authorization.substr(kBearer.size()));
}

absl::Status ApiKeys::Check(absl::string_view authorization) const {
  const absl::string_view key = KeyOf(authorization);
  if (key.empty()) {
    return absl::UnauthenticatedError(
        "an API key is needed: send the header \"Authorization: Bearer KEY\"");
  }
  // Of the digest, so that the time it takes says nothing about the key.
  if (digests_.count(Sha256Digest(key)) > 0) return absl::OkStatus();
  return absl::UnauthenticatedError("the API key is not known");
}

}  // namespace shiftadd
