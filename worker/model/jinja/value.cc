#include "worker/model/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/base/status_macros.h"

namespace shiftadd::jinja {
namespace {

constexpr int kMaxDepth = 64;

// Python's repr of a float: the shortest digits that read back the same.
std::string FloatText(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  std::string text;
  for (int digits = 15; digits <= 17; ++digits) {
    text = absl::StrFormat("%.*g", digits, d);
    double back = 0;
    if (absl::SimpleAtod(text, &back) && back == d) break;
  }
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string Quoted(absl::string_view text) {
  const char quote = absl::StrContains(text, '\'') && !absl::StrContains(text, '"') ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else {
      if (c == quote || c == '\\') out.push_back('\\');
      out.push_back(c);
    }
  }
  out.push_back(quote);
  return out;
}

std::string JsonText(absl::string_view text) {
  return nlohmann::json(std::string(text))
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

class JsonWriter {
 public:
  explicit JsonWriter(int indent) : indent_(indent) {}

  absl::Status Write(const Value& value, int depth) {
    if (depth > kMaxDepth) return absl::InvalidArgumentError("tojson: nested too deeply");
    if (value.is_none()) {
      out_ += "null";
    } else if (value.boolean() != nullptr) {
      out_ += *value.boolean() ? "true" : "false";
    } else if (value.string() != nullptr) {
      out_ += JsonText(*value.string());
    } else if (value.integer() != nullptr || value.real() != nullptr) {
      out_ += value.ToText();
    } else if (value.list() != nullptr) {
      const List& list = *value.list();
      return Block('[', ']', list.size(), depth,
                   [&](size_t i) { return Write(list[i], depth + 1); });
    } else if (value.dict() != nullptr) {
      const auto& items = value.dict()->items;
      return Block('{', '}', items.size(), depth, [&](size_t i) {
        out_ += JsonText(items[i].first) + ": ";
        return Write(items[i].second, depth + 1);
      });
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("tojson: a value of type ", value.TypeName(), " has no JSON form"));
    }
    return absl::OkStatus();
  }
  std::string Take() { return std::move(out_); }

 private:
  absl::Status Block(char open, char close, size_t count, int depth,
                     const std::function<absl::Status(size_t)>& write) {
    out_.push_back(open);
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) out_ += indent_ < 0 ? ", " : ",";
      Break(depth + 1);
      SA_RETURN_IF_ERROR(write(i));
    }
    if (count > 0) Break(depth);
    out_.push_back(close);
    return absl::OkStatus();
  }
  void Break(int depth) {
    if (indent_ < 0) return;
    out_.push_back('\n');
    out_.append(static_cast<size_t>(indent_) * static_cast<size_t>(depth), ' ');
  }

  const int indent_;
  std::string out_;
};

}  // namespace

const Value* Dict::Find(absl::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name == key) return &value;
  }
  return nullptr;
}

void Dict::Set(absl::string_view key, Value value) {
  for (auto& [name, old] : items) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(std::string(key), std::move(value));
}

const Value* Arguments::Get(size_t index, absl::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Value Value::UndefinedNamed(std::string name) {
  Value v;
  v.data_ = Undefined{std::move(name)};
  return v;
}
Value Value::MakeNone() {
  Value v;
  v.data_ = None{};
  return v;
}
Value Value::MakeBool(bool b) {
  Value v;
  v.data_ = b;
  return v;
}
Value Value::MakeInt(int64_t i) {
  Value v;
  v.data_ = i;
  return v;
}
Value Value::MakeFloat(double d) {
  Value v;
  v.data_ = d;
  return v;
}
Value Value::MakeString(std::string s) {
  Value v;
  v.data_ = std::move(s);
  return v;
}
Value Value::MakeList(List list) {
  Value v;
  v.data_ = std::make_shared<List>(std::move(list));
  return v;
}
Value Value::MakeDict(Dict dict) {
  Value v;
  v.data_ = std::make_shared<Dict>(std::move(dict));
  return v;
}
Value Value::MakeFunction(Function function) {
  Value v;
  v.data_ = std::make_shared<Function>(std::move(function));
  return v;
}

Value Value::FromJson(const nlohmann::ordered_json& json) {
  if (json.is_boolean()) return MakeBool(json.get<bool>());
  if (json.is_number_integer()) return MakeInt(json.get<int64_t>());
  if (json.is_number()) return MakeFloat(json.get<double>());
  if (json.is_string()) return MakeString(json.get<std::string>());
  if (json.is_array()) {
    List list;
    for (const auto& item : json) list.push_back(FromJson(item));
    return MakeList(std::move(list));
  }
  if (json.is_object()) {
    Dict dict;
    for (const auto& [key, item] : json.items()) dict.items.emplace_back(key, FromJson(item));
    return MakeDict(std::move(dict));
  }
  return MakeNone();
}

const List* Value::list() const {
  const auto* p = std::get_if<std::shared_ptr<List>>(&data_);
  return p == nullptr ? nullptr : p->get();
}
const Dict* Value::dict() const { return mutable_dict(); }
Dict* Value::mutable_dict() const {
  const auto* p = std::get_if<std::shared_ptr<Dict>>(&data_);
  return p == nullptr ? nullptr : p->get();
}
const Function* Value::function() const {
  const auto* p = std::get_if<std::shared_ptr<Function>>(&data_);
  return p == nullptr ? nullptr : p->get();
}

bool Value::AsInteger(int64_t* out) const {
  if (integer() == nullptr && boolean() == nullptr) return false;
  *out = integer() != nullptr ? *integer() : static_cast<int64_t>(*boolean());
  return true;
}

bool Value::AsNumber(double* out) const {
  int64_t i = 0;
  if (AsInteger(&i)) {
    *out = static_cast<double>(i);
  } else if (real() != nullptr) {
    *out = *real();
  } else {
    return false;
  }
  return true;
}

bool Value::Truth() const {
  double number = 0;
  if (AsNumber(&number)) return number != 0;
  if (string() != nullptr) return !string()->empty();
  if (list() != nullptr) return !list()->empty();
  if (dict() != nullptr) return dict()->is_namespace || !dict()->items.empty();
  return function() != nullptr;
}

bool Value::Equals(const Value& other) const {
  double a = 0, b = 0;
  if (AsNumber(&a) && other.AsNumber(&b)) return a == b;
  if (data_.index() != other.data_.index()) return false;
  if (is_undefined() || is_none()) return true;
  if (string() != nullptr) return *string() == *other.string();
  if (list() != nullptr) {
    return std::equal(list()->begin(), list()->end(), other.list()->begin(), other.list()->end(),
                      [](const Value& x, const Value& y) { return x.Equals(y); });
  }
  if (dict() != nullptr) {
    if (dict()->items.size() != other.dict()->items.size()) return false;
    for (const auto& [key, value] : dict()->items) {
      const Value* there = other.dict()->Find(key);
      if (there == nullptr || !value.Equals(*there)) return false;
    }
    return true;
  }
  return function() == other.function();
}

const char* Value::TypeName() const {
  static constexpr const char* kNames[] = {"undefined", "None", "bool", "int",     "float",
                                           "str",       "list", "dict", "function"};
  return kNames[data_.index()];
}

std::string Value::ToText() const {
  if (string() != nullptr) return *string();
  return is_undefined() ? "" : ToRepr();
}

std::string Value::ToRepr() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "None";
  if (boolean() != nullptr) return *boolean() ? "True" : "False";
  if (integer() != nullptr) return absl::StrCat(*integer());
  if (real() != nullptr) return FloatText(*real());
  if (string() != nullptr) return Quoted(*string());
  std::string out;
  if (list() != nullptr) {
    for (const Value& item : *list()) {
      absl::StrAppend(&out, out.empty() ? "" : ", ", item.ToRepr());
    }
    return absl::StrCat("[", out, "]");
  }
  if (dict() != nullptr) {
    for (const auto& [key, value] : dict()->items) {
      absl::StrAppend(&out, out.empty() ? "" : ", ", Quoted(key), ": ", value.ToRepr());
    }
    return absl::StrCat("{", out, "}");
  }
  return "<function>";
}

absl::StatusOr<std::string> Value::ToJson(int indent) const {
  JsonWriter writer(indent);
  SA_RETURN_IF_ERROR(writer.Write(*this, 0));
  return writer.Take();
}

absl::StatusOr<List> Value::Items() const {
  if (list() != nullptr) return *list();
  List out;
  if (is_undefined()) return out;
  if (string() != nullptr) {
    for (const absl::string_view c : Characters(*string())) {
      out.push_back(MakeString(std::string(c)));
    }
    return out;
  }
  if (dict() != nullptr) {
    for (const auto& [key, value] : dict()->items) out.push_back(MakeString(key));
    return out;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a value of type ", TypeName(), " cannot be iterated"));
}

absl::StatusOr<int64_t> Value::Length() const {
  if (string() != nullptr) return static_cast<int64_t>(Characters(*string()).size());
  if (list() != nullptr) return static_cast<int64_t>(list()->size());
  if (dict() != nullptr) return static_cast<int64_t>(dict()->items.size());
  if (is_undefined()) return 0;
  return absl::InvalidArgumentError(absl::StrCat("a value of type ", TypeName(), " has no length"));
}

absl::StatusOr<int> Compare(const Value& a, const Value& b) {
  double x = 0, y = 0;
  if (a.AsNumber(&x) && b.AsNumber(&y)) return x < y ? -1 : x > y ? 1 : 0;
  if (a.string() != nullptr && b.string() != nullptr) {
    const int order = a.string()->compare(*b.string());
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("values of types ", a.TypeName(), " and ", b.TypeName(), " have no order"));
}

std::vector<absl::string_view> Characters(absl::string_view utf8) {
  std::vector<absl::string_view> out;
  for (size_t i = 0; i < utf8.size();) {
    size_t end = i + 1;
    while (end < utf8.size() && (utf8[end] & 0xc0) == 0x80) ++end;
    out.push_back(utf8.substr(i, end - i));
    i = end;
  }
  return out;
}

}  // namespace shiftadd::jinja
