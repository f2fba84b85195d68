// Identifiers.
#ifndef SHIFTADD_SERVICES_BASE_IDS_H_
#define SHIFTADD_SERVICES_BASE_IDS_H_

#include <string>

#include "absl/strings/string_view.h"

namespace shiftadd {

// `prefix` + "-" + 12 random lower-case letters and digits (about 62 bits). Thread-safe.
std::string NewId(absl::string_view prefix);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_IDS_H_
