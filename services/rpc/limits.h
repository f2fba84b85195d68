// Limits that both ends of a connection agree on.
#ifndef SHIFTADD_SERVICES_RPC_LIMITS_H_
#define SHIFTADD_SERVICES_RPC_LIMITS_H_

namespace shiftadd::rpc {

inline constexpr int kMaxMessageBytes = 64 << 20;
// A client pings after this long without traffic during a call; a server tolerates half of it.
inline constexpr int kKeepAliveMillis = 20'000;
inline constexpr int kKeepAliveTimeoutMillis = 10'000;
inline constexpr int kMinReconnectMillis = 200;
inline constexpr int kMaxReconnectMillis = 3'000;

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_LIMITS_H_
