// The flags by which every daemon is told how it is protected.
#ifndef SHIFTADD_SERVICES_ACCESS_SECURITY_FLAGS_H_
#define SHIFTADD_SERVICES_ACCESS_SECURITY_FLAGS_H_

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/access/protection.h"

namespace shiftadd::access {

struct SecurityFlags {
  TlsFiles tls;
  std::string tokens;      // file of hashed tokens that are let in
  std::string token_file;  // file of the own token, sent to others
  double requests_per_second = 500;
  int calls_at_once = 1024;
  bool insecure = false;
};

// --tls-cert, --tls-key, --tls-ca, --token-file: of whoever calls. Variables SHIFTADD_TLS_CERT and
// so on.
void AddClientSecurityFlags(CLI::App* app, SecurityFlags* flags);
// These, --tokens, --requests-per-second and --calls-at-once. --insecure-i-know is each daemon's
// own.
void AddServerSecurityFlags(CLI::App* app, SecurityFlags* flags);

// Checks the files. `is_client_key` as in AccessOptions. INVALID_ARGUMENT names the flag:
// tokens beyond loopback without TLS would be readable by all on the way.
absl::StatusOr<Protection> Protect(
    const SecurityFlags& flags,
    std::function<bool(absl::string_view authorization)> is_client_key = nullptr);

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_SECURITY_FLAGS_H_
