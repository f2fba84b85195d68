// How a daemon's HTTP port is protected: the same flags and the same table as gRPC's.
#ifndef SHIFTADD_SERVICES_HTTP_PROTECT_H_
#define SHIFTADD_SERVICES_HTTP_PROTECT_H_

#include <string>

#include "services/access/protection.h"
#include "services/http/http_server.h"

namespace shiftadd::http {

// Sets `address`, TLS, and a guard that answers 401, 403 and 429 if certificates or tokens are
// asked for at all.
void Protect(const std::string& address, const access::Protection& protection,
             HttpServerOptions* options);

}  // namespace shiftadd::http

#endif  // SHIFTADD_SERVICES_HTTP_PROTECT_H_
