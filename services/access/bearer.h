// The one way in which a header's token or key is read.
#ifndef SHIFTADD_SERVICES_ACCESS_BEARER_H_
#define SHIFTADD_SERVICES_ACCESS_BEARER_H_

#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace shiftadd::access {

// TOKEN of "Bearer TOKEN", however the scheme's letters and the blanks are written. May be empty;
// nothing: another scheme, or none.
inline std::optional<absl::string_view> BearerOf(absl::string_view authorization) {
  constexpr absl::string_view kScheme = "bearer ";
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) return std::nullopt;
  return absl::StripAsciiWhitespace(authorization.substr(kScheme.size()));
}

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_BEARER_H_
