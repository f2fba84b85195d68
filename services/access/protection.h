// How a daemon is protected.
#ifndef SHIFTADD_SERVICES_ACCESS_PROTECTION_H_
#define SHIFTADD_SERVICES_ACCESS_PROTECTION_H_

#include <memory>

#include "services/access/access.h"
#include "services/access/tls_files.h"

namespace shiftadd::access {

// What a daemon needs to listen.
struct Protection {
  TlsFiles tls;                    // empty: plain text
  std::shared_ptr<Access> access;  // never null
  bool insecure = false;           // beyond loopback all the same
  int calls_at_once = 0;           // of one name; 0: no limit

  // Encrypted, and nobody gets in unknown: it may listen anywhere.
  bool complete() const { return !tls.cert.empty() && access->required(); }
};
}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_PROTECTION_H_
