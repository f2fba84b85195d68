#include "services/cli/reference.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"

namespace shiftadd::cli {
namespace {

bool IsName(const std::string& name) {
  if (name.empty() || name.size() > 255) return false;
  bool separator = true;  // none may come first
  for (size_t i = 0; i < name.size(); ++i) {
    const char c = name[i];
    if (absl::ascii_islower(c) || absl::ascii_isdigit(c)) {
      separator = false;
    } else if (c == '.' || c == '_' || c == '-' || c == '/') {
      if (separator) return false;
      separator = true;
    } else {
      return false;
    }
  }
  return !separator;
}

bool IsTag(const std::string& tag) {
  if (tag.empty() || tag.size() > 128 || tag[0] == '.' || tag[0] == '-') return false;
  for (const char c : tag) {
    if (!absl::ascii_isalnum(c) && c != '_' && c != '.' && c != '-') return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::string> NormalizeReference(const std::string& text) {
  const auto wrong = [&text](const char* why) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no NAME[:TAG]: ", why));
  };
  if (const size_t at = text.find('@'); at != std::string::npos) {
    SA_RETURN_IF_ERROR(Annotate(ValidateDigest(text.substr(at + 1)), text));
    if (!IsName(text.substr(0, at)))
      return wrong("the name must be lower-case letters, digits and . _ - / between them");
    return text;
  }
  const size_t colon = text.rfind(':');
  const std::string name = text.substr(0, colon);
  const std::string tag = colon == std::string::npos ? "latest" : text.substr(colon + 1);
  if (!IsName(name))
    return wrong("the name must be lower-case letters, digits and . _ - / between them");
  if (!IsTag(tag))
    return wrong(
        "the tag must be 1 to 128 letters, digits, _ . - and start with a letter, digit or _");
  return absl::StrCat(name, ":", tag);
}

}  // namespace shiftadd::cli
