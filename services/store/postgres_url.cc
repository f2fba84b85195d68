#include "services/store/postgres_url.h"

#include <libpq-fe.h>

#include <cstdlib>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace shiftadd::sql {
namespace {

struct OptionsFree {
  void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
};

// HOST:PORT, for each of several.
std::string Hosts(const std::string& hosts, const std::string& ports) {
  const std::vector<std::string> names = absl::StrSplit(hosts, ',');
  const std::vector<std::string> numbers = absl::StrSplit(ports, ',');
  std::string shown;
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string& number = numbers[numbers.size() == names.size() ? i : 0];
    absl::StrAppend(&shown, i == 0 ? "" : ",", names[i], number.empty() ? "" : ":", number);
  }
  return shown;
}

}  // namespace

bool IsPostgresUrl(absl::string_view text) {
  return absl::StartsWith(text, "postgres://") || absl::StartsWith(text, "postgresql://");
}

absl::StatusOr<PostgresUrl> PostgresUrl::Parse(const std::string& text) {
  // libpq's own message may quote the password.
  const absl::Status bad = absl::InvalidArgumentError(
      "store: expected postgres://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE[?OPTION=VALUE&…]");
  if (!IsPostgresUrl(text)) return bad;
  char* error = nullptr;
  const std::unique_ptr<PQconninfoOption, OptionsFree> options(
      PQconninfoParse(text.c_str(), &error));
  if (error != nullptr) PQfreemem(error);
  if (options == nullptr) return bad;
  PostgresUrl url;
  url.text_ = text;
  std::string user, host, port, database;
  for (const PQconninfoOption* o = options.get(); o->keyword != nullptr; ++o) {
    if (o->val == nullptr || *o->val == '\0') continue;
    const absl::string_view key = o->keyword;
    if (key == "user") user = absl::StrCat(o->val, "@");
    if (key == "host" || (key == "hostaddr" && host.empty())) host = o->val;
    if (key == "port") port = o->val;
    if (key == "dbname") database = o->val;
    // Passwords are marked as such by libpq.
    if (absl::StrContains(key, "password")) url.secrets_.emplace_back(o->val);
  }
  if (const char* password = std::getenv("PGPASSWORD"); password != nullptr && *password != '\0') {
    url.secrets_.emplace_back(password);
  }
  url.shown_ = absl::StrCat("postgres://", user, Hosts(host, port), "/", database);
  return url;
}

std::string PostgresUrl::Redact(absl::string_view message) const {
  std::string out(message);
  for (const std::string& secret : secrets_) {
    out = absl::StrReplaceAll(out, {{secret, "***"}});
  }
  while (!out.empty() && (out.back() == '\n' || out.back() == ' ')) out.pop_back();
  return absl::StrReplaceAll(out, {{"\n", " "}});
}

}  // namespace shiftadd::sql
