// google.rpc.Status in the grpc-status-details-bin trailer, without the googleapis protos (Debian
// has none).
#ifndef SHIFTADD_SERVICES_RPC_ERROR_DETAILS_H_
#define SHIFTADD_SERVICES_RPC_ERROR_DETAILS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/rpc/rpc.h"

namespace shiftadd::rpc {

// A serialized google.rpc.BadRequest.
std::string SerializeBadRequest(const std::vector<FieldViolation>& violations);
// A serialized google.rpc.Status whose details are the payloads of `status`; empty if it has none.
std::string SerializeDetails(const absl::Status& status);
// Adds every detail of a serialized google.rpc.Status as a payload; bytes that are none are
// ignored.
void AddDetails(const std::string& serialized, absl::Status* status);

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_ERROR_DETAILS_H_
