// The certificate that a gRPC caller has shown.
#ifndef SHIFTADD_SERVICES_RPC_CALLER_CERTIFICATE_H_
#define SHIFTADD_SERVICES_RPC_CALLER_CERTIFICATE_H_

#include <grpcpp/grpcpp.h>

#include <string>

namespace shiftadd::rpc {

// The name in the one that TLS has verified: its SPIFFE URI, else its subject as RFC 2253 writes
// it, as over HTTP. Empty: none was shown.
std::string CertificateOf(const grpc::ServerContextBase& context);

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_CALLER_CERTIFICATE_H_
