#include "services/http/protect.h"

#include <optional>

#include "absl/strings/match.h"

namespace shiftadd::http {
namespace {

constexpr absl::string_view kModels = "/v1/models";

// The path as the table has it.
absl::string_view RuleOf(absl::string_view path) {
  return absl::StartsWith(path, "/v1/models/") ? kModels : path;
}

Response Refusal(const absl::Status& status) {
  const std::string message(status.message());
  if (absl::IsPermissionDenied(status)) return JsonError(403, message, "permission_error");
  if (absl::IsResourceExhausted(status)) {
    Response response = JsonError(429, message);
    response.headers["Retry-After"] = "1";
    return response;
  }
  Response response = JsonError(401, message, "authentication_error", "invalid_api_key");
  response.headers["WWW-Authenticate"] = "Bearer";
  return response;
}

}  // namespace

void Protect(const std::string& address, const access::Protection& protection,
             HttpServerOptions* options) {
  options->address = address;
  options->insecure_beyond_loopback = protection.insecure || protection.complete();
  options->tls = protection.tls;
  if (!protection.access->required()) return;
  options->guard = [access = protection.access](const Request& head) -> std::optional<Response> {
    access::Credentials shown;
    const auto sent = head.headers.find("authorization");
    if (sent != head.headers.end()) shown.authorization = sent->second;
    shown.certificate_uri = head.certificate_uri;
    shown.certificate_subject = head.certificate_subject;
    const absl::string_view rule = RuleOf(head.path);
    // What is no path at all is a 404 to whoever is let in.
    const absl::StatusOr<access::Caller> caller =
        access::FindRule(rule) == nullptr ? access->Identify(shown) : access->Check(rule, shown);
    if (caller.ok()) return std::nullopt;
    return Refusal(caller.status());
  };
}

}  // namespace shiftadd::http
