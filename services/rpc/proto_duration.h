// Durations as messages say them. No transport: who only makes messages links this alone.
#ifndef SHIFTADD_SERVICES_RPC_PROTO_DURATION_H_
#define SHIFTADD_SERVICES_RPC_PROTO_DURATION_H_

#include <google/protobuf/duration.pb.h>

#include "absl/time/time.h"

namespace shiftadd::rpc {

// Seconds beyond what absl::Duration holds become an infinite duration.
absl::Duration FromProto(const google::protobuf::Duration& duration);
// `duration` must be finite; less than a nanosecond is cut off.
google::protobuf::Duration ToProto(absl::Duration duration);

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_PROTO_DURATION_H_
