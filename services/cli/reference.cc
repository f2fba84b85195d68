#include "services/cli/reference.h"

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/packaging/reference.h"

namespace shiftadd::cli {

absl::StatusOr<std::string> NormalizeReference(const std::string& text) {
  const bool named = text.find_first_of(":@") != std::string::npos;
  SA_ASSIGN_OR_RETURN(const packaging::Reference reference,
                      packaging::ParseReference(named ? text : absl::StrCat(text, ":latest")));
  return reference.ToString();
}

}  // namespace shiftadd::cli
