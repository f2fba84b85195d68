// Which work belongs together, over threads and processes: W3C trace ids
// (https://www.w3.org/TR/trace-context/) and request ids.
#ifndef SHIFTADD_SERVICES_BASE_TRACE_H_
#define SHIFTADD_SERVICES_BASE_TRACE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "services/base/logging.h"

namespace shiftadd {

struct CallTrace {
  std::string trace_id;    // 32 hex digits
  std::string request_id;  // 1 to 128 printable characters
};

// A new trace; the trace id of the environment variable TRACEPARENT, if that is a valid one.
CallTrace NewCallTrace();
// Goes on with a trace that began elsewhere, under a request id of its own; a new one unless
// `trace_id` is 32 hex digits.
CallTrace CallTraceOf(absl::string_view trace_id);
// Of the trace that this thread stands in; a new one outside of any.
std::string ThisTraceId();
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

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_TRACE_H_
