// Typed access to the fields of a JSON object from outside, with range checks.
#ifndef SHIFTADD_WORKER_SERVE_JSON_FIELDS_H_
#define SHIFTADD_WORKER_SERVE_JSON_FIELDS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace shiftadd {

// Each reader leaves `*out` alone if the field is absent or null, and answers INVALID_ARGUMENT,
// naming the field, what was found and what was expected, if it has another type or lies outside
// [low, high].
class JsonFields {
 public:
  explicit JsonFields(const nlohmann::json& object) : object_(object) {}

  // Null if absent or null.
  const nlohmann::json* Find(const char* name) const;
  absl::Status Read(const char* name, bool* out) const;
  absl::Status Read(const char* name, std::string* out) const;
  absl::Status Read(const char* name, int64_t low, int64_t high, int64_t* out) const;
  absl::Status Read(const char* name, double low, double high, double* out) const;

 private:
  const nlohmann::json& object_;
};

// "FIELD: WHAT".
absl::Status FieldError(absl::string_view field, absl::string_view what);
// A value for a message, cut to a readable length.
std::string Shown(const nlohmann::json& value);

// Parses text from outside. INVALID_ARGUMENT: not JSON, not valid UTF-8, nested deeper than 64.
absl::Status ParseJson(absl::string_view text, nlohmann::json* out);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_JSON_FIELDS_H_
