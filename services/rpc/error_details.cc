#include "services/rpc/error_details.h"

#include <google/protobuf/any.pb.h>
#include <google/protobuf/unknown_field_set.h>

#include "absl/strings/cord.h"

namespace shiftadd::rpc {
namespace {

using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

// Field numbers of google/rpc/status.proto and error_details.proto.
constexpr int kStatusCode = 1, kStatusMessage = 2, kStatusDetails = 3;
constexpr int kBadRequestViolations = 1;
constexpr int kViolationField = 1, kViolationDescription = 2;

std::string Serialize(const UnknownFieldSet& fields) {
  std::string bytes;
  fields.SerializeToString(&bytes);
  return bytes;
}

}  // namespace

std::string SerializeBadRequest(const std::vector<FieldViolation>& violations) {
  UnknownFieldSet request;
  for (const FieldViolation& v : violations) {
    UnknownFieldSet violation;
    violation.AddLengthDelimited(kViolationField, v.field);
    violation.AddLengthDelimited(kViolationDescription, v.description);
    request.AddLengthDelimited(kBadRequestViolations, Serialize(violation));
  }
  return Serialize(request);
}

std::string SerializeDetails(const absl::Status& status) {
  UnknownFieldSet result;
  status.ForEachPayload([&result](absl::string_view type_url, const absl::Cord& payload) {
    google::protobuf::Any any;
    any.set_type_url(std::string(type_url));
    any.set_value(std::string(payload));
    result.AddLengthDelimited(kStatusDetails, any.SerializeAsString());
  });
  if (result.empty()) return "";
  result.AddVarint(kStatusCode, static_cast<uint64_t>(status.code()));
  result.AddLengthDelimited(kStatusMessage, std::string(status.message()));
  return Serialize(result);
}

void AddDetails(const std::string& serialized, absl::Status* status) {
  UnknownFieldSet fields;
  if (serialized.empty() || !fields.ParseFromString(serialized)) return;
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& field = fields.field(i);
    google::protobuf::Any any;
    if (field.number() != kStatusDetails || field.type() != UnknownField::TYPE_LENGTH_DELIMITED ||
        !any.ParseFromString(field.length_delimited())) {
      continue;
    }
    status->SetPayload(any.type_url(), absl::Cord(any.value()));
  }
}

}  // namespace shiftadd::rpc
