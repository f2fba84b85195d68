#include "services/access/audit.h"

#include <string>

#include "absl/strings/ascii.h"
#include "services/base/logging.h"

namespace shiftadd::access {
namespace {

constexpr size_t kMaxObject = 200;

// Nobody writes lines of his own into the log.
std::string Printable(absl::string_view text) {
  std::string out(text.substr(0, kMaxObject));
  for (char& c : out) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) c = '?';
  }
  return out.empty() ? "-" : out;
}

}  // namespace

void Audit(absl::string_view caller, absl::string_view action, absl::string_view object,
           const absl::Status& outcome) {
  spdlog::info("audit: by={} action={} object={} outcome={}", Printable(caller), Printable(action),
               Printable(object), absl::StatusCodeToString(outcome.code()));
}

}  // namespace shiftadd::access
