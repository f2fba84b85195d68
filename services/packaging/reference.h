// How packages are named: NAME:TAG or NAME@sha256:HEX.
#ifndef SHIFTADD_SERVICES_PACKAGING_REFERENCE_H_
#define SHIFTADD_SERVICES_PACKAGING_REFERENCE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shiftadd::packaging {

// The grammar of OCI registries, so that every package can be pushed to one: a name is components
// joined by "/", each of lower-case letters and digits with ".", "_", "__" or "-"s between them,
// 255 at most; a tag is 1 to 128 of [A-Za-z0-9._-], the first a letter, a digit or "_".
bool IsName(absl::string_view name);
bool IsTag(absl::string_view tag);

// Exactly one of `tag` and `digest` is set.
struct Reference {
  std::string name, tag, digest;
  std::string ToString() const { return digest.empty() ? name + ":" + tag : name + "@" + digest; }
};

// INVALID_ARGUMENT says which part is wrong and what was expected.
absl::StatusOr<Reference> ParseReference(absl::string_view text);
// The same, but only NAME:TAG. Tags "sha256-HEX" are refused: they name what refers to a package.
absl::StatusOr<Reference> ParseTagReference(absl::string_view text);

// "sha256-HEX": the tag under which registries without a referrers API look for what refers to
// `digest`.
std::string ReferrersTag(const std::string& digest);
bool IsReferrersTag(absl::string_view tag);

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_REFERENCE_H_
