// TLS, tokens and the role table on gRPC's servers and channels.
#ifndef SHIFTADD_SERVICES_RPC_SECURITY_H_
#define SHIFTADD_SERVICES_RPC_SECURITY_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "services/access/access.h"
#include "services/access/tls_files.h"
#include "services/rpc/call_limit.h"
#include "services/rpc/rpc.h"

namespace shiftadd::rpc {

// Every call of a server goes through access->Check before its handler is run, if `access` asks for
// anything. TLS files are watched: a certificate that is written anew is shown to connections made
// after that. Tokens without TLS take connections over 127.0.0.1 and ::1 only. Of whoever says who
// he is, `limit` admits each call too.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(
    const access::TlsFiles& tls, const std::shared_ptr<access::Access>& access,
    const std::shared_ptr<CallLimit>& limit);

// Who calls; for handlers behind such credentials. `access` may be null: an admin named "local".
absl::StatusOr<access::Caller> CallerOf(const grpc::ServerContextBase& context,
                                        access::Access* access);

// How this process shows itself to the daemons that it calls.
struct ClientSecurity {
  access::TlsFiles tls;    // with a CA or a certificate connections are encrypted
  std::string token_file;  // empty: none; without TLS it is sent to this machine only
};
// Checks the files. Applies to every channel made after it: call it once, at the start of main.
// Thread-safe.
absl::Status SetClientSecurity(const ClientSecurity& security);

// What SetClientSecurity was given; empty: plain text.
access::TlsFiles ClientTls();

// The credentials of channels: those of SetClientSecurity, or of `security` (checked).
std::shared_ptr<grpc::ChannelCredentials> ClientCredentials();
std::shared_ptr<grpc::ChannelCredentials> MakeClientCredentials(const ClientSecurity& security);
// A channel of its own security; otherwise as MakeChannel(address).
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const ClientSecurity& security);

// UNAVAILABLE of a daemon at `address`: says so if it speaks TLS and this process does not, or the
// other way round. Others stay as they are. May take a second.
absl::Status ExplainTls(const std::string& address, const absl::Status& status);

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_SECURITY_H_
