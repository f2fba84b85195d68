#include "services/base/trace.h"

#include <gtest/gtest.h>

namespace shiftadd {
namespace {

constexpr char kTraceId[] = "0af7651916cd43dd8448eb211c80319c";

TEST(Trace, GoesOnWithOneThatBeganElsewhere) {
  EXPECT_EQ(CallTraceOf(kTraceId).trace_id, kTraceId);
  EXPECT_NE(CallTraceOf(kTraceId).request_id, CallTraceOf(kTraceId).request_id);
  for (const char* no_trace :
       {"", "0af7", "00000000000000000000000000000000", "0AF7651916CD43DD8448EB211C80319C"}) {
    const CallTrace trace = CallTraceOf(no_trace);
    EXPECT_NE(trace.trace_id, no_trace);
    EXPECT_EQ(TraceIdOf(TraceParent(trace)), trace.trace_id);
  }
}

TEST(Trace, AThreadStandsInTheInnermost) {
  EXPECT_NE(ThisTraceId(), ThisTraceId());
  const TraceScope outer(CallTraceOf(kTraceId));
  EXPECT_EQ(ThisTraceId(), kTraceId);
  {
    const TraceScope inner(NewCallTrace());
    EXPECT_NE(ThisTraceId(), kTraceId);
  }
  EXPECT_EQ(ThisTraceId(), kTraceId);
}

}  // namespace
}  // namespace shiftadd
