#include "services/packaging/reference.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"

namespace shiftadd::packaging {
namespace {

constexpr size_t kMaxName = 255, kMaxTag = 128;
constexpr char kDigestPrefix[] = "sha256:", kReferrersPrefix[] = "sha256-";

bool IsLowerAlnum(char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); }

// [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*
bool IsComponent(absl::string_view text) {
  if (text.empty() || !IsLowerAlnum(text.front()) || !IsLowerAlnum(text.back())) return false;
  for (size_t i = 0; i < text.size();) {
    if (IsLowerAlnum(text[i])) {
      ++i;
      continue;
    }
    const size_t begin = i;
    while (i < text.size() && !IsLowerAlnum(text[i])) ++i;
    const absl::string_view separator = text.substr(begin, i - begin);
    const bool dashes = separator.find_first_not_of('-') == absl::string_view::npos;
    if (!dashes && separator != "." && separator != "_" && separator != "__") return false;
  }
  return true;
}

absl::Status Malformed(absl::string_view text, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(
      "reference: expected name:tag or name@sha256:hex, found \"", text, "\": ", what));
}

}  // namespace

bool IsName(absl::string_view name) {
  if (name.size() > kMaxName) return false;
  for (absl::string_view component : absl::StrSplit(name, '/')) {
    if (!IsComponent(component)) return false;
  }
  return true;
}

bool IsTag(absl::string_view tag) {
  if (tag.empty() || tag.size() > kMaxTag || tag[0] == '.' || tag[0] == '-') return false;
  return std::all_of(tag.begin(), tag.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
}

absl::StatusOr<Reference> ParseReference(absl::string_view text) {
  Reference reference;
  const size_t at = text.find('@');
  const size_t split = at != absl::string_view::npos ? at : text.find(':');
  const absl::string_view name = text.substr(0, split);
  if (!IsName(name)) {
    return Malformed(text, absl::StrCat("the name is 1 to 255 of [a-z0-9], with '.', '_' or '-' "
                                        "within and '/' between its parts"));
  }
  reference.name = std::string(name);
  if (split == absl::string_view::npos) return Malformed(text, "there is no tag");
  const std::string rest(text.substr(split + 1));
  if (at != absl::string_view::npos) {
    if (const absl::Status valid = ValidateDigest(rest); !valid.ok()) {
      return Malformed(text, "the digest is not sha256: and 64 lower-case hex digits");
    }
    reference.digest = rest;
  } else {
    if (!IsTag(rest)) {
      return Malformed(text, "the tag is 1 to 128 of [A-Za-z0-9._-], the first no '.' or '-'");
    }
    reference.tag = rest;
  }
  return reference;
}

absl::StatusOr<Reference> ParseTagReference(absl::string_view text) {
  SA_ASSIGN_OR_RETURN(Reference reference, ParseReference(text));
  if (reference.tag.empty()) return Malformed(text, "a tag is needed here, not a digest");
  if (IsReferrersTag(reference.tag)) {
    return Malformed(text, "tags of the form sha256-hex are kept for provenance");
  }
  return reference;
}

std::string ReferrersTag(const std::string& digest) {
  return absl::StrCat(kReferrersPrefix, digest.substr(sizeof(kDigestPrefix) - 1));
}

bool IsReferrersTag(absl::string_view tag) {
  constexpr size_t kPrefix = sizeof(kReferrersPrefix) - 1;
  return tag.substr(0, kPrefix) == kReferrersPrefix &&
         ValidateDigest(absl::StrCat(kDigestPrefix, tag.substr(std::min(kPrefix, tag.size()))))
             .ok();
}

}  // namespace shiftadd::packaging
