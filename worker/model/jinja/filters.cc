#include "worker/model/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "services/base/status_macros.h"

namespace shiftadd::jinja {
namespace {

using Result = absl::StatusOr<Value>;

absl::Status Fault(absl::string_view what) { return absl::InvalidArgumentError(what); }

absl::StatusOr<std::string> TextOf(const Value& value, absl::string_view what) {
  if (value.string() != nullptr) return *value.string();
  return Fault(absl::StrCat(what, " needs a string, not a value of type ", value.TypeName()));
}

// What Python's strip() takes for white space, in UTF-8.
bool IsSpace(absl::string_view c) {
  if (c.size() == 1) {
    const unsigned char b = static_cast<unsigned char>(c[0]);
    return absl::ascii_isspace(b) || (b >= 0x1c && b <= 0x1f);
  }
  static constexpr absl::string_view kSpaces[] = {
      "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
      "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
      "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
      "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
  return std::find(std::begin(kSpaces), std::end(kSpaces), c) != std::end(kSpaces);
}

std::string Strip(absl::string_view text, bool left, bool right, const Value* chars) {
  std::vector<absl::string_view> characters = Characters(text);
  std::vector<absl::string_view> set;
  const bool own = chars != nullptr && chars->string() != nullptr;
  if (own) set = Characters(*chars->string());
  const auto drop = [&](absl::string_view c) {
    return own ? std::find(set.begin(), set.end(), c) != set.end() : IsSpace(c);
  };
  size_t begin = 0, end = characters.size();
  while (left && begin < end && drop(characters[begin])) ++begin;
  while (right && end > begin && drop(characters[end - 1])) --end;
  return absl::StrJoin(characters.begin() + static_cast<int64_t>(begin),
                       characters.begin() + static_cast<int64_t>(end), "");
}

// ASCII letters only change case.
std::string Title(std::string text, bool every_word) {
  bool start = true;
  for (char& c : text) {
    const unsigned char u = static_cast<unsigned char>(c);
    c = static_cast<char>(start ? absl::ascii_toupper(u) : absl::ascii_tolower(u));
    start = every_word && !absl::ascii_isalnum(u) && u < 0x80 && c != '\'';
  }
  return text;
}

Value Split(const std::string& text, const Value* separator, int64_t most, bool from_right) {
  List parts;
  if (separator == nullptr || separator->string() == nullptr) {
    for (const absl::string_view part :
         absl::StrSplit(text, absl::ByAnyChar(" \t\n\r\f\v"), absl::SkipEmpty())) {
      parts.push_back(Value::MakeString(std::string(part)));
    }
    return Value::MakeList(std::move(parts));
  }
  const std::string& by = *separator->string();
  std::string rest = text;
  while (most != 0 && !by.empty()) {
    const size_t at = from_right ? rest.rfind(by) : rest.find(by);
    if (at == std::string::npos) break;
    parts.push_back(
        Value::MakeString(from_right ? rest.substr(at + by.size()) : rest.substr(0, at)));
    rest = from_right ? rest.substr(0, at) : rest.substr(at + by.size());
    --most;
  }
  parts.push_back(Value::MakeString(rest));
  if (from_right) std::reverse(parts.begin(), parts.end());
  return Value::MakeList(std::move(parts));
}

bool Affix(const std::string& text, const Value* affix, bool front) {
  if (affix == nullptr) return false;
  if (affix->list() != nullptr) {
    return std::any_of(affix->list()->begin(), affix->list()->end(),
                       [&](const Value& one) { return Affix(text, &one, front); });
  }
  if (affix->string() == nullptr) return false;
  return front ? absl::StartsWith(text, *affix->string()) : absl::EndsWith(text, *affix->string());
}

int64_t IntegerOr(const Value* value, int64_t otherwise) {
  int64_t out = otherwise;
  if (value != nullptr) value->AsInteger(&out);
  return out;
}

Result Pairs(const Value& value, absl::string_view what) {
  if (value.is_undefined()) return Value::MakeList({});
  if (value.dict() == nullptr) {
    return Fault(absl::StrCat(what, " needs a dict, not a value of type ", value.TypeName()));
  }
  List out;
  for (const auto& [key, item] : value.dict()->items) {
    out.push_back(Value::MakeList({Value::MakeString(key), item}));
  }
  return Value::MakeList(std::move(out));
}

Result Join(const Value& value, const Value* separator, const Value* attribute) {
  SA_ASSIGN_OR_RETURN(const List items, value.Items());
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0 && separator != nullptr) out += separator->ToText();
    Value item = items[i];
    if (attribute != nullptr && attribute->string() != nullptr) {
      SA_ASSIGN_OR_RETURN(item, GetMember(items[i], *attribute->string()));
    }
    out += item.ToText();
  }
  return Value::MakeString(std::move(out));
}

// select, reject, selectattr, rejectattr.
Result Select(absl::string_view name, const Value& value, const Arguments& arguments) {
  const bool by_attribute = absl::EndsWith(name, "attr");
  const bool keep = absl::StartsWith(name, "select");
  SA_ASSIGN_OR_RETURN(const List items, value.Items());
  List rest = arguments.positional;
  std::string attribute;
  if (by_attribute) {
    if (rest.empty()) return Fault(absl::StrCat(name, " needs the name of an attribute"));
    SA_ASSIGN_OR_RETURN(attribute, TextOf(rest[0], name));
    rest.erase(rest.begin());
  }
  std::string test;
  if (!rest.empty()) {
    SA_ASSIGN_OR_RETURN(test, TextOf(rest[0], name));
    if (!IsTest(test)) {
      return absl::UnimplementedError(absl::StrCat("the test '", test, "' is not supported"));
    }
    rest.erase(rest.begin());
  }
  List out;
  for (const Value& item : items) {
    Value subject = item;
    for (const absl::string_view part : absl::StrSplit(attribute, '.', absl::SkipEmpty())) {
      SA_ASSIGN_OR_RETURN(subject, GetMember(subject, part));
    }
    bool holds = subject.Truth();
    if (!test.empty()) {
      SA_ASSIGN_OR_RETURN(holds, ApplyTest(test, subject, rest));
    }
    if (holds == keep) out.push_back(item);
  }
  return Value::MakeList(std::move(out));
}

Result Map(const Value& value, const Arguments& arguments) {
  SA_ASSIGN_OR_RETURN(const List items, value.Items());
  const Value* attribute = arguments.Get(SIZE_MAX, "attribute");
  List out;
  for (const Value& item : items) {
    Value mapped;
    if (attribute != nullptr && attribute->string() != nullptr) {
      SA_ASSIGN_OR_RETURN(mapped, GetMember(item, *attribute->string()));
      if (const Value* other = arguments.Get(SIZE_MAX, "default"); mapped.is_undefined() && other) {
        mapped = *other;
      }
    } else {
      if (arguments.positional.empty()) return Fault("map needs a filter or an attribute");
      SA_ASSIGN_OR_RETURN(const std::string filter, TextOf(arguments.positional[0], "map"));
      if (!IsFilter(filter)) {
        return absl::UnimplementedError(absl::StrCat("the filter '", filter, "' is not supported"));
      }
      const Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, {}};
      SA_ASSIGN_OR_RETURN(mapped, ApplyFilter(filter, item, rest));
    }
    out.push_back(std::move(mapped));
  }
  return Value::MakeList(std::move(out));
}

Result Indent(const Value& value, const Arguments& arguments) {
  SA_ASSIGN_OR_RETURN(const std::string text, TextOf(value, "indent"));
  const Value* width = arguments.Get(0, "width");
  const std::string by =
      width != nullptr && width->string() != nullptr
          ? *width->string()
          : std::string(static_cast<size_t>(std::clamp<int64_t>(IntegerOr(width, 4), 0, 1000)),
                        ' ');
  const Value* first = arguments.Get(1, "first");
  const Value* blank = arguments.Get(2, "blank");
  std::string out;
  bool start = true;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const bool indents = start ? first != nullptr && first->Truth()
                               : !line.empty() || (blank != nullptr && blank->Truth());
    absl::StrAppend(&out, start ? "" : "\n", indents ? by : "", line);
    start = false;
  }
  return Value::MakeString(std::move(out));
}

Result Sorted(const Value& value, const Arguments& arguments, bool unique) {
  SA_ASSIGN_OR_RETURN(List items, value.Items());
  const Value* attribute = arguments.Get(SIZE_MAX, "attribute");
  const Value* reverse = arguments.Get(unique ? SIZE_MAX : 0, "reverse");
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) {
    Value key = item;
    if (attribute != nullptr && attribute->string() != nullptr) {
      SA_ASSIGN_OR_RETURN(key, GetMember(item, *attribute->string()));
    }
    if (key.string() != nullptr) key = Value::MakeString(absl::AsciiStrToLower(*key.string()));
    keyed.emplace_back(std::move(key), item);
  }
  if (unique) {
    std::vector<std::pair<Value, Value>> once;
    for (auto& entry : keyed) {
      const bool there = std::any_of(once.begin(), once.end(), [&](const auto& other) {
        return other.first.Equals(entry.first);
      });
      if (!there) once.push_back(std::move(entry));
    }
    keyed = std::move(once);
  } else {
    absl::Status status;
    std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
      const absl::StatusOr<int> order = Compare(a.first, b.first);
      if (!order.ok()) status = order.status();
      return order.ok() && (reverse != nullptr && reverse->Truth() ? *order > 0 : *order < 0);
    });
    SA_RETURN_IF_ERROR(status);
  }
  List out;
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return Value::MakeList(std::move(out));
}

Result ToInt(const Value& value, const Arguments& arguments) {
  int64_t i = 0;
  double d = 0;
  if (value.AsInteger(&i)) return Value::MakeInt(i);
  if (value.AsNumber(&d) && std::isfinite(d) && std::abs(d) < 9e18) {
    return Value::MakeInt(static_cast<int64_t>(d));
  }
  if (value.string() != nullptr && absl::SimpleAtoi(*value.string(), &i)) return Value::MakeInt(i);
  if (value.string() != nullptr && absl::SimpleAtod(*value.string(), &d) && std::abs(d) < 9e18) {
    return Value::MakeInt(static_cast<int64_t>(d));
  }
  const Value* otherwise = arguments.Get(0, "default");
  return otherwise != nullptr ? *otherwise : Value::MakeInt(0);
}

Result ToFloat(const Value& value, const Arguments& arguments) {
  double d = 0;
  if (value.AsNumber(&d)) return Value::MakeFloat(d);
  if (value.string() != nullptr && absl::SimpleAtod(*value.string(), &d)) {
    return Value::MakeFloat(d);
  }
  const Value* otherwise = arguments.Get(0, "default");
  return otherwise != nullptr ? *otherwise : Value::MakeFloat(0);
}

Result EndOf(const Value& value, bool first) {
  SA_ASSIGN_OR_RETURN(const List items, value.Items());
  if (items.empty()) return Value();
  return first ? items.front() : items.back();
}

Result Default(const Value& value, const Arguments& arguments) {
  const Value* falsy = arguments.Get(1, "boolean");
  const bool replace =
      value.is_undefined() || (falsy != nullptr && falsy->Truth() && !value.Truth());
  if (!replace) return value;
  const Value* otherwise = arguments.Get(0, "default_value");
  return otherwise != nullptr ? *otherwise : Value::MakeString("");
}

Result Reversed(const Value& value) {
  if (value.string() != nullptr) {
    std::vector<absl::string_view> characters = Characters(*value.string());
    std::reverse(characters.begin(), characters.end());
    return Value::MakeString(absl::StrJoin(characters, ""));
  }
  SA_ASSIGN_OR_RETURN(List items, value.Items());
  std::reverse(items.begin(), items.end());
  return Value::MakeList(std::move(items));
}

using FilterFunction = Result (*)(const Value&, const Arguments&);

// A filter of text: other values are turned into it first, as Jinja does.
template <std::string (*Change)(std::string)>
Result OfText(const Value& value, const Arguments&) {
  return Value::MakeString(Change(value.ToText()));
}
std::string Lower(std::string s) { return absl::AsciiStrToLower(s); }
std::string Upper(std::string s) { return absl::AsciiStrToUpper(s); }
std::string Capital(std::string s) { return Title(std::move(s), false); }
std::string Titled(std::string s) { return Title(std::move(s), true); }
std::string Same(std::string s) { return s; }

const std::map<std::string, FilterFunction, std::less<>>& Filters() {
  static const auto* const filters = new std::map<std::string, FilterFunction, std::less<>>{
      {"lower", OfText<Lower>},
      {"upper", OfText<Upper>},
      {"capitalize", OfText<Capital>},
      {"title", OfText<Titled>},
      {"string", OfText<Same>},
      {"safe", [](const Value& v, const Arguments&) -> Result { return v; }},
      {"trim",
       [](const Value& v, const Arguments& a) -> Result {
         return Value::MakeString(Strip(v.ToText(), true, true, a.Get(0, "chars")));
       }},
      {"length",
       [](const Value& v, const Arguments&) -> Result {
         SA_ASSIGN_OR_RETURN(const int64_t length, v.Length());
         return Value::MakeInt(length);
       }},
      {"first", [](const Value& v, const Arguments&) { return EndOf(v, true); }},
      {"last", [](const Value& v, const Arguments&) { return EndOf(v, false); }},
      {"list",
       [](const Value& v, const Arguments&) -> Result {
         SA_ASSIGN_OR_RETURN(List items, v.Items());
         return Value::MakeList(std::move(items));
       }},
      {"items", [](const Value& v, const Arguments&) { return Pairs(v, "items"); }},
      {"dictsort",
       [](const Value& v, const Arguments&) -> Result {
         SA_ASSIGN_OR_RETURN(const Value pairs, Pairs(v, "dictsort"));
         List sorted = *pairs.list();
         std::stable_sort(sorted.begin(), sorted.end(), [](const Value& a, const Value& b) {
           return absl::AsciiStrToLower((*a.list())[0].ToText()) <
                  absl::AsciiStrToLower((*b.list())[0].ToText());
         });
         return Value::MakeList(std::move(sorted));
       }},
      {"join", [](const Value& v,
                  const Arguments& a) { return Join(v, a.Get(0, "d"), a.Get(1, "attribute")); }},
      {"replace",
       [](const Value& v, const Arguments& a) -> Result {
         const Value* from = a.Get(0, "old");
         const Value* to = a.Get(1, "new");
         if (from == nullptr || to == nullptr) return Fault("replace needs two strings");
         return CallMethod(
             Value::MakeString(v.ToText()), "replace",
             {{Value::MakeString(from->ToText()), Value::MakeString(to->ToText())}, {}});
       }},
      {"tojson",
       [](const Value& v, const Arguments& a) -> Result {
         SA_ASSIGN_OR_RETURN(std::string text, v.ToJson(static_cast<int>(std::clamp<int64_t>(
                                                   IntegerOr(a.Get(0, "indent"), -1), -1, 100))));
         return Value::MakeString(std::move(text));
       }},
      {"indent", Indent},
      {"default", Default},
      {"d", Default},
      {"int", ToInt},
      {"float", ToFloat},
      {"reverse", [](const Value& v, const Arguments&) { return Reversed(v); }},
      {"sort", [](const Value& v, const Arguments& a) { return Sorted(v, a, false); }},
      {"unique", [](const Value& v, const Arguments& a) { return Sorted(v, a, true); }},
      {"map", Map},
      {"select", [](const Value& v, const Arguments& a) { return Select("select", v, a); }},
      {"reject", [](const Value& v, const Arguments& a) { return Select("reject", v, a); }},
      {"selectattr", [](const Value& v, const Arguments& a) { return Select("selectattr", v, a); }},
      {"rejectattr", [](const Value& v, const Arguments& a) { return Select("rejectattr", v, a); }},
  };
  return *filters;
}

constexpr absl::string_view kTests[] = {
    "defined", "undefined", "none",        "true",     "false",    "boolean",  "integer", "float",
    "number",  "string",    "mapping",     "sequence", "iterable", "callable", "equalto", "eq",
    "==",      "ne",        "!=",          "in",       "gt",       "lt",       "ge",      "le",
    "odd",     "even",      "divisibleby", "sameas",   "lower",    "upper"};

constexpr absl::string_view kStringMethods[] = {
    "strip",    "lstrip", "rstrip", "split",   "rsplit",     "startswith",
    "endswith", "upper",  "lower",  "title",   "capitalize", "replace",
    "join",     "find",   "count",  "isdigit", "splitlines"};
constexpr absl::string_view kDictMethods[] = {"items", "keys", "values", "get"};

template <size_t N>
bool IsIn(absl::string_view name, const absl::string_view (&names)[N]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

Result StringMethod(const std::string& s, absl::string_view name, const Arguments& a) {
  const Value* first = a.Get(0, "");
  if (name == "strip") return Value::MakeString(Strip(s, true, true, first));
  if (name == "lstrip") return Value::MakeString(Strip(s, true, false, first));
  if (name == "rstrip") return Value::MakeString(Strip(s, false, true, first));
  if (name == "split" || name == "rsplit") {
    return Split(s, a.Get(0, "sep"), IntegerOr(a.Get(1, "maxsplit"), -1), name == "rsplit");
  }
  if (name == "startswith") return Value::MakeBool(Affix(s, first, true));
  if (name == "endswith") return Value::MakeBool(Affix(s, first, false));
  if (name == "upper") return Value::MakeString(Upper(s));
  if (name == "lower") return Value::MakeString(Lower(s));
  if (name == "title") return Value::MakeString(Titled(s));
  if (name == "capitalize") return Value::MakeString(Capital(s));
  if (name == "isdigit") {
    return Value::MakeBool(!s.empty() && std::all_of(s.begin(), s.end(), [](unsigned char c) {
      return absl::ascii_isdigit(c);
    }));
  }
  if (name == "splitlines") {
    List lines;
    for (const absl::string_view line : absl::StrSplit(s, '\n')) {
      lines.push_back(Value::MakeString(std::string(line)));
    }
    if (!lines.empty() && lines.back().string()->empty()) lines.pop_back();
    return Value::MakeList(std::move(lines));
  }
  if (first == nullptr) return Fault(absl::StrCat(name, " needs an argument"));
  if (name == "join")
    return Join(*first, &static_cast<const Value&>(Value::MakeString(s)), nullptr);
  SA_ASSIGN_OR_RETURN(const std::string what, TextOf(*first, name));
  if (name == "find") {
    const size_t at = s.find(what);
    if (at == std::string::npos) return Value::MakeInt(-1);
    return Value::MakeInt(static_cast<int64_t>(Characters(s.substr(0, at)).size()));
  }
  if (name == "count") {
    int64_t count = 0;
    for (size_t at = s.find(what); !what.empty() && at != std::string::npos;
         at = s.find(what, at + what.size())) {
      ++count;
    }
    return Value::MakeInt(count);
  }
  const Value* second = a.Get(1, "");
  if (second == nullptr) return Fault("replace needs two strings");
  SA_ASSIGN_OR_RETURN(const std::string by, TextOf(*second, name));
  std::string out;
  int64_t left = IntegerOr(a.Get(2, "count"), -1);
  size_t from = 0;
  for (size_t at; left != 0 && !what.empty() && (at = s.find(what, from)) != std::string::npos;
       --left) {
    out += s.substr(from, at - from) + by;
    from = at + what.size();
  }
  return Value::MakeString(out + s.substr(from));
}

Result DictMethod(const Value& dict, absl::string_view name, const Arguments& a) {
  if (name == "items") return Pairs(dict, name);
  if (name == "get") {
    const Value* key = a.Get(0, "key");
    if (key == nullptr) return Fault("get needs a key");
    const Value* found = key->string() == nullptr ? nullptr : dict.dict()->Find(*key->string());
    if (found != nullptr) return *found;
    const Value* otherwise = a.Get(1, "default");
    return otherwise != nullptr ? *otherwise : Value::MakeNone();
  }
  List out;
  for (const auto& [key, value] : dict.dict()->items) {
    out.push_back(name == "keys" ? Value::MakeString(key) : value);
  }
  return Value::MakeList(std::move(out));
}

}  // namespace

bool IsFilter(absl::string_view name) {
  return Filters().find(name) != Filters().end() || name == "count";
}
bool IsTest(absl::string_view name) { return IsIn(name, kTests); }

Result ApplyFilter(absl::string_view name, const Value& value, const Arguments& arguments) {
  const auto filter = Filters().find(name == "count" ? "length" : name);
  if (filter == Filters().end()) {
    return absl::UnimplementedError(absl::StrCat("the filter '", name, "' is not supported"));
  }
  return filter->second(value, arguments);
}

absl::StatusOr<bool> ApplyTest(absl::string_view name, const Value& v, const List& arguments) {
  if (name == "defined") return !v.is_undefined();
  if (name == "undefined") return v.is_undefined();
  if (name == "none") return v.is_none();
  if (name == "true") return v.boolean() != nullptr && *v.boolean();
  if (name == "false") return v.boolean() != nullptr && !*v.boolean();
  if (name == "boolean") return v.boolean() != nullptr;
  if (name == "integer") return v.integer() != nullptr;
  if (name == "float") return v.real() != nullptr;
  double number = 0;
  if (name == "number") return v.AsNumber(&number);
  if (name == "string") return v.string() != nullptr;
  if (name == "mapping") return v.dict() != nullptr;
  if (name == "callable") return v.function() != nullptr;
  if (name == "sequence" || name == "iterable") {
    return v.string() != nullptr || v.list() != nullptr || v.dict() != nullptr || v.is_undefined();
  }
  if (name == "lower" || name == "upper") {
    const std::string text = v.ToText();
    return (name == "lower" ? Lower(text) : Upper(text)) == text;
  }
  int64_t i = 0;
  if (name == "odd" || name == "even") {
    if (!v.AsInteger(&i)) return Fault(absl::StrCat("'is ", name, "' needs an integer"));
    return (i % 2 != 0) == (name == "odd");
  }
  if (arguments.empty()) return Fault(absl::StrCat("'is ", name, "' needs an argument"));
  const Value& other = arguments[0];
  if (name == "equalto" || name == "eq" || name == "==" || name == "sameas") return v.Equals(other);
  if (name == "ne" || name == "!=") return !v.Equals(other);
  if (name == "in") return Contains(other, v);
  if (name == "divisibleby") {
    int64_t by = 0;
    if (!v.AsInteger(&i) || !other.AsInteger(&by) || by == 0) {
      return Fault("'is divisibleby' needs two integers, the second not 0");
    }
    return i % by == 0;
  }
  SA_ASSIGN_OR_RETURN(const int order, Compare(v, other));
  if (name == "gt") return order > 0;
  if (name == "lt") return order < 0;
  return name == "ge" ? order >= 0 : order <= 0;
}

bool HasMethod(const Value& value, absl::string_view name) {
  if (value.string() != nullptr) return IsIn(name, kStringMethods);
  // A namespace is no dict to a program.
  return value.dict() != nullptr && !value.dict()->is_namespace && IsIn(name, kDictMethods);
}

Result CallMethod(const Value& value, absl::string_view name, const Arguments& arguments) {
  if (!HasMethod(value, name)) {
    return absl::UnimplementedError(absl::StrCat("the method '", name, "' of a value of type ",
                                                 value.TypeName(), " is not supported"));
  }
  if (value.string() != nullptr) return StringMethod(*value.string(), name, arguments);
  return DictMethod(value, name, arguments);
}

Result GetMember(const Value& value, absl::string_view name) {
  if (value.is_undefined()) {
    return Fault(absl::StrCat("'", name, "' is asked of something that is not defined"));
  }
  const Value* found = value.dict() == nullptr ? nullptr : value.dict()->Find(name);
  return found != nullptr ? *found : Value::UndefinedNamed(std::string(name));
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item) {
  if (container.string() != nullptr) {
    SA_ASSIGN_OR_RETURN(const std::string part, TextOf(item, "'in' a string"));
    return absl::StrContains(*container.string(), part);
  }
  if (container.dict() != nullptr) {
    return item.string() != nullptr && container.dict()->Find(*item.string()) != nullptr;
  }
  SA_ASSIGN_OR_RETURN(const List items, container.Items());
  return std::any_of(items.begin(), items.end(), [&](const Value& v) { return v.Equals(item); });
}

}  // namespace shiftadd::jinja
