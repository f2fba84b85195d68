#include "worker/serve/api_keys.h"

#include <cstdint>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "services/access/bearer.h"
#include "services/access/watched_file.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {
constexpr int64_t kMaxBytes = 16 << 20;  // some 200,000 digests
}  // namespace

absl::StatusOr<std::unique_ptr<ApiKeys>> ApiKeys::FromFile(const std::string& path) {
  SA_ASSIGN_OR_RETURN(std::string text, access::ReadSmallFile(path, kMaxBytes));
  std::istringstream file(std::move(text));
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

absl::Status ApiKeys::Check(absl::string_view authorization) const {
  const absl::string_view key = access::BearerOf(authorization).value_or("");
  if (key.empty()) {
    return absl::UnauthenticatedError(
        "an API key is needed: send the header \"Authorization: Bearer KEY\"");
  }
  // Of the digest, so that the time it takes says nothing about the key.
  if (digests_.count(Sha256Digest(key)) > 0) return absl::OkStatus();
  return absl::UnauthenticatedError("the API key is not known");
}

}  // namespace shiftadd
