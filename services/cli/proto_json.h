// Protobuf messages as JSON for people and scripts: field names as in the .proto, enums by their
// lower-case short names ("succeeded", "wht128"), 64-bit integers as numbers, times as RFC 3339,
// durations in seconds.
#ifndef SHIFTADD_SERVICES_CLI_PROTO_JSON_H_
#define SHIFTADD_SERVICES_CLI_PROTO_JSON_H_

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace shiftadd::cli {

// Scalars, lists and maps are always there; messages, optional fields and members of a oneof only
// if set.
nlohmann::ordered_json ToJson(const google::protobuf::Message& message);

// "JOB_STATE_SUCCEEDED" -> "succeeded": without the part that the enum's zero value has before
// UNSPECIFIED.
std::string ShortEnumName(const google::protobuf::EnumValueDescriptor* value);

// Fills `message` from `json`. Everything that is wrong is appended to `faults` as "path: what,
// expected what": unknown fields, wrong types, numbers out of range, unknown enum names, two
// members of one oneof. `path` names the message itself ("recipe").
void FromJson(const nlohmann::json& json, const std::string& path,
              google::protobuf::Message* message, std::vector<std::string>* faults);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_PROTO_JSON_H_
