#include "services/job/criterion_name.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace shiftadd {

std::string CriterionName(v1::Criterion criterion) {
  if (criterion == v1::CRITERION_UNSPECIFIED) return "default";
  const std::string& name = v1::Criterion_Name(criterion);
  if (name.empty()) return absl::StrCat("criterion ", criterion);
  return absl::AsciiStrToLower(absl::StripPrefix(name, "CRITERION_"));
}

}  // namespace shiftadd
