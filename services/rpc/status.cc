#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "services/rpc/error_details.h"
#include "services/rpc/rpc.h"

namespace shiftadd::rpc {
namespace {

// gRPC's and Abseil's canonical codes run from 0 (OK) to 16 (UNAUTHENTICATED).
constexpr int kMaxCode = 16;

int Canonical(int code) {
  return code >= 1 && code <= kMaxCode ? code : static_cast<int>(absl::StatusCode::kUnknown);
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(Canonical(static_cast<int>(status.code()))),
                      std::string(status.message()), SerializeDetails(status));
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(Canonical(status.error_code())),
                      status.error_message());
  AddDetails(status.error_details(), &result);
  return result;
}

absl::Status InvalidFields(const std::vector<FieldViolation>& violations) {
  std::string message;
  for (const FieldViolation& v : violations) {
    absl::StrAppend(&message, message.empty() ? "" : "; ", v.field, ": ", v.description);
  }
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kBadRequestTypeUrl, absl::Cord(SerializeBadRequest(violations)));
  return status;
}

}  // namespace shiftadd::rpc
