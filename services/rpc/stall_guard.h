// Streams whose client sits still: it answers pings, so that its connection looks alive, but takes
// nothing of what it is sent, or sends nothing of what it has announced. Each would keep a thread,
// and what the call holds, for ever.
#ifndef SHIFTADD_SERVICES_RPC_STALL_GUARD_H_
#define SHIFTADD_SERVICES_RPC_STALL_GUARD_H_

#include <grpcpp/grpcpp.h>

#include "absl/time/time.h"
#include "services/rpc/limits.h"

namespace shiftadd::rpc {

// Cancels the call if this object lives longer than `limit`: it stands around one blocking Read or
// Write, which then ends with false. `context` must outlive it. Thread-safe against others.
class StallGuard {
 public:
  explicit StallGuard(grpc::ServerContext* context,
                      absl::Duration limit = absl::Milliseconds(kStallMillis));
  ~StallGuard();
  StallGuard(const StallGuard&) = delete;
  StallGuard& operator=(const StallGuard&) = delete;

 private:
  const absl::Time end_;
  grpc::ServerContext* const context_;
};

// False: the client has gone, or took nothing for `limit`.
template <typename Writer, typename Message>
bool WriteInTime(grpc::ServerContext* context, Writer* writer, const Message& message,
                 absl::Duration limit = absl::Milliseconds(kStallMillis)) {
  const StallGuard guard(context, limit);
  return writer->Write(message);
}

// False: there is no more, or nothing came for `limit` (the context is cancelled then).
template <typename Reader, typename Message>
bool ReadInTime(grpc::ServerContext* context, Reader* reader, Message* message,
                absl::Duration limit = absl::Milliseconds(kStallMillis)) {
  const StallGuard guard(context, limit);
  return reader->Read(message);
}

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_STALL_GUARD_H_
