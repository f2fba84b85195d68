// Filters, tests and methods of template programs.
#ifndef SHIFTADD_WORKER_MODEL_JINJA_FILTERS_H_
#define SHIFTADD_WORKER_MODEL_JINJA_FILTERS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/jinja/value.h"

namespace shiftadd::jinja {

bool IsFilter(absl::string_view name);
bool IsTest(absl::string_view name);

// `value` | name(arguments). INVALID_ARGUMENT: wrong types.
absl::StatusOr<Value> ApplyFilter(absl::string_view name, const Value& value,
                                  const Arguments& arguments);
// `value` is name(arguments).
absl::StatusOr<bool> ApplyTest(absl::string_view name, const Value& value, const List& arguments);
// value.name(arguments) of strings and dicts. UNIMPLEMENTED: no method that is known.
absl::StatusOr<Value> CallMethod(const Value& value, absl::string_view name,
                                 const Arguments& arguments);
// True if strings or dicts, as `value` is, have the method.
bool HasMethod(const Value& value, absl::string_view name);

// value.name and value[name]: a dict's entry, else undefined. INVALID_ARGUMENT for undefined
// values.
absl::StatusOr<Value> GetMember(const Value& value, absl::string_view name);
absl::StatusOr<bool> Contains(const Value& container, const Value& item);

}  // namespace shiftadd::jinja

#endif  // SHIFTADD_WORKER_MODEL_JINJA_FILTERS_H_
