// Connection strings of PostgreSQL, and what of them may be shown.
#ifndef SHIFTADD_SERVICES_STORE_POSTGRES_URL_H_
#define SHIFTADD_SERVICES_STORE_POSTGRES_URL_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shiftadd::sql {

// Thread-safe; immutable.
class PostgresUrl {
 public:
  // postgres://user:password@host:port/database?options, also several hosts, as libpq reads them.
  // INVALID_ARGUMENT says nothing of what `text` holds.
  static absl::StatusOr<PostgresUrl> Parse(const std::string& text);

  // With its password: for libpq only.
  const std::string& text() const { return text_; }
  // postgres://user@host:port/database: for logs and messages.
  const std::string& shown() const { return shown_; }
  // `message` without the passwords that the URL (or PGPASSWORD) has.
  std::string Redact(absl::string_view message) const;

 private:
  std::string text_, shown_;
  std::vector<std::string> secrets_;
};

// True for postgres:// and postgresql://.
bool IsPostgresUrl(absl::string_view text);

}  // namespace shiftadd::sql

#endif  // SHIFTADD_SERVICES_STORE_POSTGRES_URL_H_
