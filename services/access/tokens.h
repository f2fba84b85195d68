// A file of hashed bearer tokens.
#ifndef SHIFTADD_SERVICES_ACCESS_TOKENS_H_
#define SHIFTADD_SERVICES_ACCESS_TOKENS_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/access/role.h"

namespace shiftadd::access {

// Who calls.
struct Caller {
  std::string name;
  Roles roles;  // with all that they imply
};

// One token, as the file has it: "NAME ROLE[,ROLE…] sha256:HEX".
struct TokenEntry {
  std::string name;    // 1 to 100 letters, digits, '.', '_', '-', '@'
  Roles roles;         // not empty
  std::string digest;  // "sha256:" and 64 hex digits, of the token
};

// Whether a name may stand in the file, in a certificate's SPIFFE URI and in a job's owner.
bool IsCallerName(absl::string_view name);

// Lines as above; empty ones and those that begin with # are skipped. INVALID_ARGUMENT names `path`
// and the line, never what else stands in it.
absl::StatusOr<std::vector<TokenEntry>> ParseTokens(absl::string_view text, absl::string_view path);
std::string FormatToken(const TokenEntry& entry);

// A new token: "sat_" and 256 random bits.
std::string NewToken();

// The tokens of a file that is read again whenever it changes, within a second or two. A file that
// has become unreadable or wrong leaves the tokens that it had, and a line in the log. Thread-safe.
class TokenFile {
 public:
  virtual ~TokenFile() = default;
  // FAILED_PRECONDITION if it cannot be read.
  static absl::StatusOr<std::shared_ptr<TokenFile>> Open(const std::string& path);
  // Compares hashes, each in constant time.
  virtual std::optional<Caller> Find(absl::string_view token) = 0;
};

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_TOKENS_H_
