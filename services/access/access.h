// Who calls, and whether he may: one decision for gRPC and HTTP.
#ifndef SHIFTADD_SERVICES_ACCESS_ACCESS_H_
#define SHIFTADD_SERVICES_ACCESS_ACCESS_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/access/method_rules.h"
#include "services/access/role.h"
#include "services/access/tokens.h"

namespace shiftadd::access {

// What a call shows. All may be empty.
struct Credentials {
  absl::string_view authorization;        // "Bearer TOKEN"
  absl::string_view certificate_uri;      // a SPIFFE URI of the verified certificate
  absl::string_view certificate_subject;  // its subject as RFC 2253 writes it
};

struct AccessOptions {
  bool certificates = false;          // TLS verifies clients' certificates
  std::shared_ptr<TokenFile> tokens;  // null: none
  // Further bearer tokens that make a client (a server's API keys); null: none.
  std::function<bool(absl::string_view authorization)> is_client_key;
  // Of one caller, over all connections; bursts of five times as many pass. 0: no limit.
  double requests_per_second = 0;
};

// Who a certificate names: the SPIFFE URI spiffe://DOMAIN/ROLE/NAME, else OU = role and CN = name
// of the subject. UNAUTHENTICATED says what was expected.
absl::StatusOr<Caller> CallerOfCertificate(absl::string_view uri, absl::string_view subject);

// Thread-safe.
class Access {
 public:
  virtual ~Access() = default;
  // Without certificates and tokens everybody who reaches the daemon is "local", an admin.
  static std::shared_ptr<Access> Create(AccessOptions options);

  // Whether a certificate or token is asked for at all.
  virtual bool required() const = 0;
  // UNAUTHENTICATED says what is missing, never what was found. A certificate and a token: the
  // token counts.
  virtual absl::StatusOr<Caller> Identify(const Credentials& credentials) = 0;
  // `method`: as in MethodRules. Who calls, without a name where everybody may and nobody is asked;
  // or UNAUTHENTICATED as above, PERMISSION_DENIED naming the method, the caller and the roles it
  // takes, RESOURCE_EXHAUSTED beyond the limit of requests.
  virtual absl::StatusOr<Caller> Check(absl::string_view method,
                                       const Credentials& credentials) = 0;
};

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_ACCESS_H_
