// The files of a TLS identity.
#ifndef SHIFTADD_SERVICES_ACCESS_TLS_FILES_H_
#define SHIFTADD_SERVICES_ACCESS_TLS_FILES_H_

#include <string>

#include "absl/status/status.h"

namespace shiftadd::access {

// Paths of PEM files; all may be empty.
struct TlsFiles {
  std::string cert;  // own certificate, then those between it and the CA
  std::string key;   // its private key
  std::string ca;    // certificates that others' are verified by
  bool empty() const { return cert.empty() && key.empty() && ca.empty(); }
};

// How often files are looked at for a new certificate.
inline constexpr unsigned kTlsRefreshSeconds = 2;

// INVALID_ARGUMENT or FAILED_PRECONDITION names the flag, the file and what is wrong: one of cert
// and key without the other, unreadable, no certificate or key in it, a key of another certificate,
// a certificate that has expired or is not valid yet.
absl::Status CheckTlsFiles(const TlsFiles& files);

// DIR/ROLE.crt, DIR/ROLE.key and DIR/ca.crt, as deploy/certs.sh writes them.
TlsFiles TlsFilesIn(const std::string& dir, const std::string& role);

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_TLS_FILES_H_
