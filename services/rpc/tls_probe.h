// Whether a port speaks TLS.
#ifndef SHIFTADD_SERVICES_RPC_TLS_PROBE_H_
#define SHIFTADD_SERVICES_RPC_TLS_PROBE_H_

#include <string>

namespace shiftadd::rpc {

// Connects to host:port and begins a handshake; true once a certificate has come, whoever signed
// it. At most about a second. Nothing is sent but the handshake.
bool SpeaksTls(const std::string& address);

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_TLS_PROBE_H_
