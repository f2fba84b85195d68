#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "services/base/printable.h"
#include "services/rpc/error_details.h"
#include "services/rpc/rpc.h"

namespace shiftadd::rpc {
namespace {

// gRPC's and Abseil's canonical codes run from 0 (OK) to 16 (UNAUTHENTICATED).
constexpr int kMaxCode = 16;

// Of what a client takes at the end of a call, 8 KiB in all, for the status. Were it more, gRPC
// would tell him of that, and not of what the matter was.
constexpr size_t kRoom = 6 << 10;

// Of a message, as it travels: percent-encoded.
size_t EncodedSize(absl::string_view message) {
  size_t size = 0;
  for (const char c : message) size += c >= ' ' && c <= '~' && c != '%' ? 1 : 3;
  return size;
}

// Messages quote what was asked for, whatever its length.
std::string Fitting(absl::string_view message) {
  return EncodedSize(message) <= kRoom ? std::string(message) : Shortened(message, kRoom / 3);
}

int Canonical(int code) {
  return code >= 1 && code <= kMaxCode ? code : static_cast<int>(absl::StatusCode::kUnknown);
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message = Fitting(status.message());
  std::string details = SerializeDetails(status);
  // In base64. The message says the same.
  if (EncodedSize(message) + details.size() * 4 / 3 > kRoom) details.clear();
  return grpc::Status(static_cast<grpc::StatusCode>(Canonical(static_cast<int>(status.code()))),
                      message, details);
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
