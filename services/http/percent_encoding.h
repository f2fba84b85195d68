// Percent-encoding of paths and queries (RFC 3986, 2.1).
#ifndef SHIFTADD_SERVICES_HTTP_PERCENT_ENCODING_H_
#define SHIFTADD_SERVICES_HTTP_PERCENT_ENCODING_H_

#include <string>

#include "absl/strings/string_view.h"

namespace shiftadd::http {

// "%3A" becomes ":"; a '%' without two digits behind it stays.
std::string PercentDecoded(absl::string_view text);

}  // namespace shiftadd::http

#endif  // SHIFTADD_SERVICES_HTTP_PERCENT_ENCODING_H_
