// Limits that both ends of a connection agree on.
#ifndef SHIFTADD_SERVICES_RPC_LIMITS_H_
#define SHIFTADD_SERVICES_RPC_LIMITS_H_

namespace shiftadd::rpc {

inline constexpr int kMaxMessageBytes = 64 << 20;
// A client pings after this long without traffic during a call; a server tolerates half of it.
inline constexpr int kKeepAliveMillis = 20'000;
inline constexpr int kKeepAliveTimeoutMillis = 10'000;
// Calls of one connection that run at the same time; a client keeps further ones back.
inline constexpr int kMaxStreams = 1024;
// Of all calls that run: each takes one. Beyond: RESOURCE_EXHAUSTED.
inline constexpr int kMaxThreads = 4096;
// A connection that has not said who it is by then is shut.
inline constexpr int kHandshakeMillis = 10'000;
inline constexpr int kMaxMetadataBytes = 16 << 10;
// A client that neither takes nor sends a piece of a stream for so long is let go.
inline constexpr int kStallMillis = 60'000;
inline constexpr int kMinReconnectMillis = 200;
// A connection is waited for at least so long; one with TLS takes its time on a busy machine.
inline constexpr int kMinConnectMillis = 200;
inline constexpr int kMinConnectTlsMillis = 3'000;
inline constexpr int kMaxReconnectMillis = 3'000;

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_LIMITS_H_
