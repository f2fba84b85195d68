// Who may use the server: a list of API keys.
#ifndef SHIFTADD_WORKER_SERVE_API_KEYS_H_
#define SHIFTADD_WORKER_SERVE_API_KEYS_H_

#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

// Thread-safe: immutable. Keeps digests only.
class ApiKeys {
 public:
  // One key a line: the key itself, or "sha256:" and 64 hex digits of its SHA-256. Empty lines and
  // lines that begin with # are skipped. INVALID_ARGUMENT names the file and the line;
  // FAILED_PRECONDITION: it cannot be read, is no file, has more than 16 MiB, or holds no key.
  static absl::StatusOr<std::unique_ptr<ApiKeys>> FromFile(const std::string& path);

  // `authorization`: the header's value, "Bearer KEY". UNAUTHENTICATED says what is missing, never
  // what was found.
  absl::Status Check(absl::string_view authorization) const;

 private:
  std::set<std::string> digests_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_API_KEYS_H_
