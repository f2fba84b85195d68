// Text that others have sent, before it is shown: in a log line or on somebody's terminal.
#ifndef SHIFTADD_SERVICES_BASE_PRINTABLE_H_
#define SHIFTADD_SERVICES_BASE_PRINTABLE_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace shiftadd {

// Whether there are control characters in it: those of ASCII, or of Unicode in UTF-8.
bool HasControls(absl::string_view text);

// On one line, and a terminal shows it as it is: control characters become \n, \t, \x1B. All else
// stays, UTF-8 or not.
std::string EscapeControls(absl::string_view text);

// At most `most` bytes of it and then "…" if it is longer; no character of UTF-8 is cut.
std::string Shortened(absl::string_view text, size_t most);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_PRINTABLE_H_
