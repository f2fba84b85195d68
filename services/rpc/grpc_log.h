// gRPC's own log lines through ours.
#ifndef SHIFTADD_SERVICES_RPC_GRPC_LOG_H_
#define SHIFTADD_SERVICES_RPC_GRPC_LOG_H_

namespace shiftadd::rpc {

// What the gRPC library has to say goes through spdlog from now on, with its level and its place in
// gRPC's source, instead of straight to stderr: a log of JSON lines stays one. Thread-safe; done by
// whatever makes a server or a channel.
void LogGrpcThroughOurs();

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_GRPC_LOG_H_
