// Which call belongs to which: W3C trace context (https://www.w3.org/TR/trace-context/) and request
// ids, from process to process and into the logs.
//
// Every call carries two metadata, `traceparent` and `x-request-id`, put there by MakeChannel's
// channels and read by Server. What the caller's thread stands in is handed on; without any, a
// trace begins with the call. A server's log lines of a call have the fields trace_id, request_id
// and method, and the calls that it makes on that thread belong to the same trace.
#ifndef SHIFTADD_SERVICES_RPC_CALL_TRACE_H_
#define SHIFTADD_SERVICES_RPC_CALL_TRACE_H_

#include <grpcpp/support/client_interceptor.h>
#include <grpcpp/support/server_interceptor.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "services/base/logging.h"

namespace shiftadd::rpc {

inline constexpr char kTraceParentKey[] = "traceparent";
inline constexpr char kRequestIdKey[] = "x-request-id";

struct CallTrace {
  std::string trace_id;    // 32 hex digits
  std::string request_id;  // 1 to 128 printable characters
};

// A new trace; the trace id of the environment variable TRACEPARENT, if that is a valid one.
CallTrace NewCallTrace();
// The 32 hex digits of a traceparent, or "" if it is malformed.
std::string TraceIdOf(absl::string_view traceparent);
// 00-TRACE-SPAN-01, with a span of its own.
std::string TraceParent(const CallTrace& trace);

// While it lives, calls of this thread belong to `trace`, and its log lines say so. Ends in the
// reverse order of its making.
class TraceScope {
 public:
  explicit TraceScope(CallTrace trace);
  ~TraceScope();
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;
  // Of this thread; null outside of any.
  static const CallTrace* Current();

 private:
  const CallTrace trace_;
  const CallTrace* const outer_;
  const LogScope fields_;
};

// For a server and for a channel.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerTracing();
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> MakeClientTracing();

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_CALL_TRACE_H_
