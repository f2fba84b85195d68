// The only gRPC plumbing: status mapping, servers, channels.
#ifndef SHIFTADD_SERVICES_RPC_RPC_H_
#define SHIFTADD_SERVICES_RPC_RPC_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/access/protection.h"
#include "services/rpc/limits.h"

namespace shiftadd::rpc {

// Codes are equal by number; messages are kept. Payloads of an absl::Status travel as
// google.rpc.Status details.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

// The payload of InvalidFields: a serialized google.rpc.BadRequest.
inline constexpr char kBadRequestTypeUrl[] = "type.googleapis.com/google.rpc.BadRequest";

// A fault of one request field, for INVALID_ARGUMENT with google.rpc.BadRequest details.
struct FieldViolation {
  std::string field;        // recipe.candidate_bits
  std::string description;  // what was found and what was expected
};
// INVALID_ARGUMENT whose message lists every violation ("field: description; …"). `violations` is
// not empty.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations);

// What a server bears with from one connection, and from one name over all of its connections.
// Those who sit still in a stream: stall_guard.h.
struct ConnectionLimits {
  absl::Duration handshake = absl::Milliseconds(kHandshakeMillis);
  absl::Duration ping_after = absl::Milliseconds(2 * kKeepAliveMillis);  // of silence
  absl::Duration ping_answer = absl::Milliseconds(kKeepAliveTimeoutMillis);
  int streams = kMaxStreams;
  int calls_of_name = kMaxStreams;  // 0: no limit; where callers say who they are
};

struct ServerOptions {
  std::string address;                    // host:port; port 0 picks one
  bool insecure_beyond_loopback = false;  // else others than loopback take TLS and identities
  access::TlsFiles tls;                   // empty: plain text
  std::shared_ptr<access::Access> access = nullptr;  // null: everybody may call everything
  ConnectionLimits limits = {};
};

// For a daemon that is told by flags how it is protected.
ServerOptions Protected(const std::string& address, const access::Protection& protection);

// A running gRPC server with health (grpc.health.v1) and reflection, 64 MiB message limit. Shuts
// down on destruction.
class Server {
 public:
  virtual ~Server() = default;
  // FAILED_PRECONDITION: "address … in use", or neither loopback nor protected.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       const std::vector<grpc::Service*>& services);
  virtual int port() const = 0;
  // Health turns NOT_SERVING. Blocks until all is over; further calls do nothing.
  // Refuses new calls, lets running ones end for `grace`, then cancels them.
  virtual void Shutdown(absl::Duration grace) = 0;
};

// A channel to host:port with the same message limit and keep-alive, with the certificate, CA and
// token of SetClientSecurity (security.h).
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);
// Sets the deadline from now.
void SetDeadline(grpc::ClientContext* context, absl::Duration timeout);

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_RPC_H_
