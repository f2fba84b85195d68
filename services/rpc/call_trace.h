// Which call belongs to which: W3C trace context (https://www.w3.org/TR/trace-context/) and request
// ids, from process to process and into the logs.
//
// Every call carries two metadata, `traceparent` and `x-request-id`, put there by MakeChannel's
// channels and read by Server. What the caller's thread stands in is handed on; without any, a
// trace begins with the call. A server's log lines of a call have the fields trace_id, request_id
// and method, and the calls that it makes on that thread belong to the same trace. Its answer has
// the request id in the trailing metadata, whatever the status: who calls need not send one.
#ifndef SHIFTADD_SERVICES_RPC_CALL_TRACE_H_
#define SHIFTADD_SERVICES_RPC_CALL_TRACE_H_

#include <grpcpp/support/client_interceptor.h>
#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "services/base/trace.h"

namespace shiftadd::rpc {

inline constexpr char kTraceParentKey[] = "traceparent";
inline constexpr char kRequestIdKey[] = "x-request-id";

// For a server and for a channel.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerTracing();
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> MakeClientTracing();

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_CALL_TRACE_H_
