#include "services/access/security_flags.h"

#include <utility>

#include "services/base/status_macros.h"
#include "services/flags/values.h"

namespace shiftadd::access {

void AddClientSecurityFlags(CLI::App* app, SecurityFlags* flags) {
  NoEmptyVariable(
      app->add_option(
             "--tls-cert", flags->tls.cert,
             "Own certificate (PEM); it says who this process is. Written again, it is taken "
             "up without a restart, as the other files are")
          ->envname("SHIFTADD_TLS_CERT"));
  NoEmptyVariable(
      app->add_option("--tls-key", flags->tls.key, "The certificate's private key (PEM)")
          ->envname("SHIFTADD_TLS_KEY"));
  NoEmptyVariable(
      app->add_option("--tls-ca", flags->tls.ca,
                      "Certificates (PEM) that others' are verified by; connections are encrypted")
          ->envname("SHIFTADD_TLS_CA"));
  NoEmptyVariable(app->add_option("--token-file", flags->token_file,
                                  "File of the token that is sent to other daemons")
                      ->envname("SHIFTADD_TOKEN_FILE"));
}

void AddServerSecurityFlags(CLI::App* app, SecurityFlags* flags) {
  AddClientSecurityFlags(app, flags);
  NoEmptyVariable(
      app->add_option("--tokens", flags->tokens,
                      "File of hashed tokens that are let in (`shiftadd token` writes it): without "
                      "one, and without --tls-ca, everybody who reaches the port may do anything")
          ->envname("SHIFTADD_TOKENS"));
  app->add_option("--requests-per-second", flags->requests_per_second,
                  "Of one certificate's or token's name, on average; 0: no limit")
      ->envname("SHIFTADD_REQUESTS_PER_SECOND")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  app->add_option("--calls-at-once", flags->calls_at_once,
                  "gRPC calls, long polls and streams among them, of one certificate's or token's "
                  "name that run at the same time; 0: no limit")
      ->envname("SHIFTADD_CALLS_AT_ONCE")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
}

absl::StatusOr<Protection> Protect(
    const SecurityFlags& flags,
    std::function<bool(absl::string_view authorization)> is_client_key) {
  SA_RETURN_IF_ERROR(CheckTlsFiles(flags.tls));
  Protection protection;
  protection.insecure = flags.insecure;
  protection.calls_at_once = flags.calls_at_once;
  if (!flags.tls.cert.empty()) protection.tls = flags.tls;
  AccessOptions options;
  // Without a certificate of its own a process is only a client of TLS.
  options.certificates = !flags.tls.cert.empty() && !flags.tls.ca.empty();
  if (!flags.tokens.empty()) {
    absl::StatusOr<std::shared_ptr<TokenFile>> tokens = TokenFile::Open(flags.tokens);
    if (!tokens.ok()) return Annotate(tokens.status(), "--tokens");
    options.tokens = *std::move(tokens);
    if (flags.tls.cert.empty() && flags.insecure) {
      return absl::InvalidArgumentError(
          "--tokens with --insecure-i-know: tokens would travel unencrypted; expected --tls-cert "
          "and --tls-key");
    }
  }
  options.requests_per_second = flags.requests_per_second;
  options.is_client_key = std::move(is_client_key);
  protection.access = Access::Create(std::move(options));
  return protection;
}

}  // namespace shiftadd::access
