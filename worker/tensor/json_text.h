// JSON from files that are not trusted: errors instead of exceptions, bounded nesting, no key
// twice.
#ifndef SHIFTADD_WORKER_TENSOR_JSON_TEXT_H_
#define SHIFTADD_WORKER_TENSOR_JSON_TEXT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace shiftadd {

// Parses one JSON object. `what` names the document in messages ("model.safetensors: header").
// INVALID_ARGUMENT: not JSON (says where), not an object, nested deeper than 64, a key that stands
// twice in an object, or a string that is not UTF-8. So dump() of the result never throws.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, const std::string& what);

// True if `text` is well-formed UTF-8 (no surrogates, no overlong forms).
bool IsValidUtf8(absl::string_view text);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TENSOR_JSON_TEXT_H_
