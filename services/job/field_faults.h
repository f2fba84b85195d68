// Faults of a request, collected so that all of them are named at once.
#ifndef SHIFTADD_SERVICES_JOB_FIELD_FAULTS_H_
#define SHIFTADD_SERVICES_JOB_FIELD_FAULTS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

struct FieldFault {
  std::string field;        // recipe.candidate_bits
  std::string description;  // "found …, expected …"
};

// "field: description; field: description".
inline std::string FaultMessage(const std::vector<FieldFault>& faults) {
  return absl::StrJoin(faults, "; ", [](std::string* out, const FieldFault& f) {
    absl::StrAppend(out, f.field, ": ", f.description);
  });
}

// In the order in which they are found.
class FaultList {
 public:
  void Add(absl::string_view field, absl::string_view description) {
    list_.push_back({std::string(field), std::string(description)});
  }
  // A NaN is out of every range.
  template <typename T>
  void Range(absl::string_view field, T found, T least, T most) {
    if (found >= least && found <= most) return;
    Add(field, absl::StrCat("found ", found, ", expected ", least, " to ", most));
  }
  std::vector<FieldFault> Take() { return std::move(list_); }

 private:
  std::vector<FieldFault> list_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_JOB_FIELD_FAULTS_H_
