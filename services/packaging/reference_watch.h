// The packager's side of WatchReference: tells a replica what its reference names, and keeps what
// the replica says of itself.
#ifndef SHIFTADD_SERVICES_PACKAGING_REFERENCE_WATCH_H_
#define SHIFTADD_SERVICES_PACKAGING_REFERENCE_WATCH_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/sync_stream.h>

#include "absl/status/status.h"
#include "services/packaging/packager.h"
#include "services/packaging/replicas.h"

namespace shiftadd::packaging {

using WatchStream = grpc::ServerReaderWriter<v1::WatchReferenceResponse, v1::WatchReferenceRequest>;

// Returns when the replica goes or the packager stops. INVALID_ARGUMENT: no first message, or a
// malformed reference.
absl::Status ServeWatch(Packager* packager, Replicas* replicas, grpc::ServerContext* context,
                        WatchStream* stream);

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_REFERENCE_WATCH_H_
