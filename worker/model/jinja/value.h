// The values of template programs: what Python's are to Jinja, as far as chat templates need them.
#ifndef SHIFTADD_WORKER_MODEL_JINJA_VALUE_H_
#define SHIFTADD_WORKER_MODEL_JINJA_VALUE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace shiftadd::jinja {

class Value;
using List = std::vector<Value>;

// In order of insertion; keys are strings.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;
  bool is_namespace = false;  // its members may be assigned: namespace()
  const Value* Find(absl::string_view key) const;
  void Set(absl::string_view key, Value value);
};

struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;
  // The argument at `index`, or the one named `name`; null if neither is there.
  const Value* Get(size_t index, absl::string_view name) const;
};
using Function = std::function<absl::StatusOr<Value>(const Arguments&)>;

// Copies share lists, dicts and functions. Not thread-safe when it holds a namespace.
class Value {
 public:
  struct Undefined {
    std::string name;  // for messages
  };
  struct None {};

  Value() : data_(Undefined{}) {}
  static Value UndefinedNamed(std::string name);
  static Value MakeNone();
  static Value MakeBool(bool b);
  static Value MakeInt(int64_t i);
  static Value MakeFloat(double d);
  static Value MakeString(std::string s);
  static Value MakeList(List list);
  static Value MakeDict(Dict dict);
  static Value MakeFunction(Function function);
  static Value FromJson(const nlohmann::ordered_json& json);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  // Null unless it is one.
  const bool* boolean() const { return std::get_if<bool>(&data_); }
  const int64_t* integer() const { return std::get_if<int64_t>(&data_); }
  const double* real() const { return std::get_if<double>(&data_); }
  const std::string* string() const { return std::get_if<std::string>(&data_); }
  const List* list() const;
  const Dict* dict() const;
  Dict* mutable_dict() const;
  const Function* function() const;
  // As Python counts: True is 1. False if it is no number.
  bool AsNumber(double* out) const;
  bool AsInteger(int64_t* out) const;

  bool Truth() const;
  bool Equals(const Value& other) const;
  // "str", "list", …: for messages.
  const char* TypeName() const;
  // As {{ }} prints it: str().
  std::string ToText() const;
  // repr(): strings in quotes.
  std::string ToRepr() const;
  // json.dumps(ensure_ascii=False); `indent` < 0: on one line.
  absl::StatusOr<std::string> ToJson(int indent) const;
  // What a loop goes through: elements, characters, keys.
  absl::StatusOr<List> Items() const;
  // len(). INVALID_ARGUMENT if it has none.
  absl::StatusOr<int64_t> Length() const;

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::string, std::shared_ptr<List>,
               std::shared_ptr<Dict>, std::shared_ptr<Function>>
      data_;
};

// -1, 0, 1. INVALID_ARGUMENT if the two have no order.
absl::StatusOr<int> Compare(const Value& a, const Value& b);

// The characters of `utf8`, a string each.
std::vector<absl::string_view> Characters(absl::string_view utf8);

}  // namespace shiftadd::jinja

#endif  // SHIFTADD_WORKER_MODEL_JINJA_VALUE_H_
