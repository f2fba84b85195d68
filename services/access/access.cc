#include "services/access/access.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "services/access/bearer.h"
#include "services/access/rate_limit.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"

namespace shiftadd::access {
namespace {

constexpr size_t kKeyDigits = 12;

// The parts of "CN=a,OU=b\,c": names and unescaped values. A value with hexadecimal escapes names
// nobody we know.
std::vector<std::pair<std::string, std::string>> SplitSubject(absl::string_view subject) {
  std::vector<std::pair<std::string, std::string>> parts;
  std::string name, value;
  bool in_value = false;
  for (size_t i = 0; i <= subject.size(); ++i) {
    if (i == subject.size() || subject[i] == ',' || subject[i] == '+') {
      parts.emplace_back(std::move(name), std::move(value));
      name.clear();
      value.clear();
      in_value = false;
    } else if (!in_value && subject[i] == '=') {
      in_value = true;
    } else {
      if (subject[i] == '\\' && i + 1 < subject.size()) ++i;
      (in_value ? value : name) += subject[i];
    }
  }
  return parts;
}

absl::StatusOr<Caller> MakeCaller(absl::string_view role_name, absl::string_view name) {
  const std::optional<Role> role = FindRole(role_name);
  if (role.has_value() && IsCallerName(name)) {
    return Caller{std::string(name), Roles{*role}.Implied()};
  }
  return absl::UnauthenticatedError(
      absl::StrCat("the certificate names no role: expected the URI spiffe://DOMAIN/ROLE/NAME, or "
                   "OU=ROLE and CN=NAME, with a role of: ",
                   RoleNames()));
}

class AccessImpl : public Access {
 public:
  explicit AccessImpl(AccessOptions options)
      : options_(std::move(options)), limit_(options_.requests_per_second) {}

  bool required() const override { return options_.certificates || options_.tokens != nullptr; }

  absl::StatusOr<Caller> Identify(const Credentials& shown) override {
    if (!required()) return Caller{"local", Roles{Role::kAdmin}.Implied()};
    if (!shown.authorization.empty()) return OfToken(shown.authorization);
    if (!shown.certificate_uri.empty() || !shown.certificate_subject.empty()) {
      return CallerOfCertificate(shown.certificate_uri, shown.certificate_subject);
    }
    return absl::UnauthenticatedError(absl::StrCat(
        "no ", options_.certificates ? "client certificate and no " : "", "token was sent: give ",
        options_.certificates ? "--tls-cert and --tls-key, or " : "",
        "--token-file (in HTTP the header Authorization: Bearer TOKEN)"));
  }

  absl::StatusOr<Caller> Check(absl::string_view method, const Credentials& shown) override {
    const MethodRule* rule = FindRule(method);
    if (rule != nullptr && rule->everybody) return Caller();
    SA_ASSIGN_OR_RETURN(Caller caller, Identify(shown));
    if (!required()) return caller;
    if (options_.requests_per_second > 0 && !limit_.Take(caller.name, absl::Now())) {
      return absl::ResourceExhaustedError(absl::StrCat(caller.name, " sends more than ",
                                                       options_.requests_per_second,
                                                       " requests a second: try again later"));
    }
    if (rule != nullptr && (caller.roles.Meets(rule->roles) || caller.roles.Has(Role::kAdmin))) {
      return caller;
    }
    Roles wanted = rule == nullptr ? Roles() : rule->roles;
    wanted.Add(Role::kAdmin);
    return absl::PermissionDeniedError(
        absl::StrCat(caller.name, " may not call ", method, ": that takes the role ",
                     rule == nullptr ? "of nobody" : wanted.ToString()));
  }

 private:
  absl::StatusOr<Caller> OfToken(absl::string_view authorization) {
    const std::optional<absl::string_view> bearer = BearerOf(authorization);
    if (!bearer.has_value()) {
      return absl::UnauthenticatedError("authorization: expected Bearer TOKEN");
    }
    const absl::string_view token = *bearer;
    if (options_.tokens != nullptr) {
      if (std::optional<Caller> caller = options_.tokens->Find(token)) return *std::move(caller);
    }
    if (options_.is_client_key != nullptr && options_.is_client_key(authorization)) {
      // Each key has limits of its own; its digest tells them apart and gives nothing away.
      const std::string digest = Sha256Digest(token).substr(sizeof("sha256:") - 1, kKeyDigits);
      return Caller{absl::StrCat("api-key-", digest), Roles{Role::kClient}};
    }
    return absl::UnauthenticatedError("the token is not known");
  }

  const AccessOptions options_;
  RateLimit limit_;
};

}  // namespace

absl::StatusOr<Caller> CallerOfCertificate(absl::string_view uri, absl::string_view subject) {
  if (absl::ConsumePrefix(&uri, "spiffe://")) {
    const std::vector<absl::string_view> parts = absl::StrSplit(uri, '/');
    return parts.size() == 3 && !parts[0].empty() ? MakeCaller(parts[1], parts[2])
                                                  : MakeCaller("", "");
  }
  std::string role, name;
  int roles = 0, names = 0;
  for (const auto& [key, value] : SplitSubject(subject)) {
    if (key == "OU") role = value, ++roles;
    if (key == "CN") name = value, ++names;
  }
  // Several would leave it to the reader which one counts.
  return roles == 1 && names == 1 ? MakeCaller(role, name) : MakeCaller("", "");
}

std::shared_ptr<Access> Access::Create(AccessOptions options) {
  return std::make_shared<AccessImpl>(std::move(options));
}

}  // namespace shiftadd::access
