#include "services/cli/proto_json.h"

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>

#include <cmath>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "services/rpc/proto_duration.h"

namespace shiftadd::cli {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// --- To JSON ---

OrderedJson EnumToJson(const google::protobuf::EnumValueDescriptor* value) {
  return ShortEnumName(value);
}

// One value: of a singular field (index < 0) or of a list.
OrderedJson ValueToJson(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection* r = message.GetReflection();
  const bool list = index >= 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return list ? r->GetRepeatedBool(message, field, index) : r->GetBool(message, field);
    case FieldDescriptor::CPPTYPE_INT32:
      return list ? r->GetRepeatedInt32(message, field, index) : r->GetInt32(message, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return list ? r->GetRepeatedInt64(message, field, index) : r->GetInt64(message, field);
    case FieldDescriptor::CPPTYPE_UINT32:
      return list ? r->GetRepeatedUInt32(message, field, index) : r->GetUInt32(message, field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return list ? r->GetRepeatedUInt64(message, field, index) : r->GetUInt64(message, field);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return list ? r->GetRepeatedFloat(message, field, index) : r->GetFloat(message, field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return list ? r->GetRepeatedDouble(message, field, index) : r->GetDouble(message, field);
    case FieldDescriptor::CPPTYPE_STRING:
      return list ? r->GetRepeatedString(message, field, index) : r->GetString(message, field);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumToJson(list ? r->GetRepeatedEnum(message, field, index)
                             : r->GetEnum(message, field));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(list ? r->GetRepeatedMessage(message, field, index)
                         : r->GetMessage(message, field));
  }
  return nullptr;
}

OrderedJson MapToJson(const Message& message, const FieldDescriptor* field) {
  Json sorted = Json::object();  // a map's own order is not defined
  const Reflection* r = message.GetReflection();
  for (int i = 0; i < r->FieldSize(message, field); ++i) {
    const Message& entry = r->GetRepeatedMessage(message, field, i);
    const OrderedJson key = ValueToJson(entry, entry.GetDescriptor()->map_key(), -1);
    sorted[key.is_string() ? key.get<std::string>() : key.dump()] =
        ValueToJson(entry, entry.GetDescriptor()->map_value(), -1);
  }
  return sorted;
}

// --- From JSON ---

std::string Show(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

std::string EnumNames(const EnumDescriptor* type) {
  std::vector<std::string> names;
  for (int i = 0; i < type->value_count(); ++i) {
    if (type->value(i)->number() != 0) names.push_back(ShortEnumName(type->value(i)));
  }
  return absl::StrJoin(names, ", ");
}

// Sets or appends one value; returns what was expected if it does not fit, else "".
class Writer {
 public:
  Writer(Message* message, const FieldDescriptor* field) : message_(message), field_(field) {}

  std::string Write(const Json& json, const std::string& path, std::vector<std::string>* faults) {
    switch (field_->cpp_type()) {
      case FieldDescriptor::CPPTYPE_BOOL:
        if (!json.is_boolean()) return "expected true or false";
        Put(json.get<bool>(), &Reflection::SetBool, &Reflection::AddBool);
        return "";
      case FieldDescriptor::CPPTYPE_INT32:
        return Integer<int32_t>(json, &Reflection::SetInt32, &Reflection::AddInt32);
      case FieldDescriptor::CPPTYPE_INT64:
        return Integer<int64_t>(json, &Reflection::SetInt64, &Reflection::AddInt64);
      case FieldDescriptor::CPPTYPE_UINT32:
        return Integer<uint32_t>(json, &Reflection::SetUInt32, &Reflection::AddUInt32);
      case FieldDescriptor::CPPTYPE_UINT64:
        return Integer<uint64_t>(json, &Reflection::SetUInt64, &Reflection::AddUInt64);
      case FieldDescriptor::CPPTYPE_FLOAT:
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return Real(json);
      case FieldDescriptor::CPPTYPE_STRING:
        if (!json.is_string()) return "expected a string";
        Put(json.get<std::string>(), &Reflection::SetString, &Reflection::AddString);
        return "";
      case FieldDescriptor::CPPTYPE_ENUM:
        return Enum(json);
      case FieldDescriptor::CPPTYPE_MESSAGE: {
        const Reflection* r = message_->GetReflection();
        FromJson(json, path,
                 field_->is_repeated() ? r->AddMessage(message_, field_)
                                       : r->MutableMessage(message_, field_),
                 faults);
        return "";
      }
    }
    return "is of a kind that cannot be given here";
  }

 private:
  template <typename V, typename Set, typename Add>
  void Put(V value, Set set, Add add) {
    const Reflection* r = message_->GetReflection();
    if (field_->is_repeated()) {
      (r->*add)(message_, field_, value);
    } else {
      (r->*set)(message_, field_, value);
    }
  }

  template <typename V, typename Set, typename Add>
  std::string Integer(const Json& json, Set set, Add add) {
    const std::string expected =
        absl::StrCat("expected a whole number from ", std::numeric_limits<V>::min(), " to ",
                     std::numeric_limits<V>::max());
    if (!json.is_number_integer()) return expected;
    const bool fits =
        json.is_number_unsigned()
            ? json.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<V>::max())
            : json.get<int64_t>() >= static_cast<int64_t>(std::numeric_limits<V>::min());
    if (!fits) return expected;
    Put(json.get<V>(), set, add);
    return "";
  }

  std::string Real(const Json& json) {
    if (!json.is_number() || !std::isfinite(json.get<double>())) return "expected a number";
    if (field_->cpp_type() == FieldDescriptor::CPPTYPE_FLOAT) {
      Put(json.get<float>(), &Reflection::SetFloat, &Reflection::AddFloat);
    } else {
      Put(json.get<double>(), &Reflection::SetDouble, &Reflection::AddDouble);
    }
    return "";
  }

  std::string Enum(const Json& json) {
    const EnumDescriptor* type = field_->enum_type();
    for (int i = 0; json.is_string() && i < type->value_count(); ++i) {
      const auto* value = type->value(i);
      if (value->number() == 0 || ShortEnumName(value) != json.get<std::string>()) continue;
      Put(value, &Reflection::SetEnum, &Reflection::AddEnum);
      return "";
    }
    return absl::StrCat("expected one of: ", EnumNames(type));
  }

  Message* message_;
  const FieldDescriptor* field_;
};

void FillField(const Json& json, const std::string& path, const FieldDescriptor* field,
               Message* message, std::vector<std::string>* faults) {
  Writer writer(message, field);
  if (!field->is_repeated()) {
    const std::string wrong = writer.Write(json, path, faults);
    if (!wrong.empty()) faults->push_back(absl::StrCat(path, ": ", wrong, ", found ", Show(json)));
    return;
  }
  if (!json.is_array()) {
    faults->push_back(absl::StrCat(path, ": expected a list, found ", Show(json)));
    return;
  }
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string item = absl::StrCat(path, "[", i, "]");
    const std::string wrong = writer.Write(json[i], item, faults);
    if (!wrong.empty())
      faults->push_back(absl::StrCat(item, ": ", wrong, ", found ", Show(json[i])));
  }
}

std::string FieldNames(const google::protobuf::Descriptor* type) {
  std::vector<std::string> names;
  names.reserve(type->field_count());
  for (int i = 0; i < type->field_count(); ++i) names.push_back(type->field(i)->name());
  return absl::StrJoin(names, ", ");
}

}  // namespace

std::string ShortEnumName(const google::protobuf::EnumValueDescriptor* value) {
  std::string name = value->name();
  const google::protobuf::EnumValueDescriptor* zero = value->type()->FindValueByNumber(0);
  if (zero != nullptr) {
    const size_t prefix = zero->name().rfind("UNSPECIFIED");
    if (prefix != std::string::npos && name.compare(0, prefix, zero->name(), 0, prefix) == 0) {
      name = name.substr(prefix);
    }
  }
  return absl::AsciiStrToLower(name);
}

nlohmann::ordered_json ToJson(const Message& message) {
  if (message.GetDescriptor() == google::protobuf::Timestamp::descriptor()) {
    const auto& time = static_cast<const google::protobuf::Timestamp&>(message);
    return absl::FormatTime(absl::RFC3339_full,
                            absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos()),
                            absl::UTCTimeZone());
  }
  if (message.GetDescriptor() == google::protobuf::Duration::descriptor()) {
    return absl::ToDoubleSeconds(
        rpc::FromProto(static_cast<const google::protobuf::Duration&>(message)));
  }
  OrderedJson json = OrderedJson::object();
  const Reflection* r = message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    if (field->is_map()) {
      json[field->name()] = MapToJson(message, field);
    } else if (field->is_repeated()) {
      OrderedJson list = OrderedJson::array();
      for (int j = 0; j < r->FieldSize(message, field); ++j)
        list.push_back(ValueToJson(message, field, j));
      json[field->name()] = std::move(list);
    } else if (!field->has_presence() || r->HasField(message, field)) {
      json[field->name()] = ValueToJson(message, field, -1);
    }
  }
  return json;
}

void FromJson(const Json& json, const std::string& path, Message* message,
              std::vector<std::string>* faults) {
  if (!json.is_object()) {
    faults->push_back(absl::StrCat(path, ": expected fields and values, found ", Show(json)));
    return;
  }
  const Reflection* r = message->GetReflection();
  for (const auto& [name, value] : json.items()) {
    const std::string where = absl::StrCat(path, ".", name);
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(name);
    if (field == nullptr) {
      faults->push_back(absl::StrCat(
          where, ": unknown field; there are: ", FieldNames(message->GetDescriptor())));
      continue;
    }
    const auto* oneof = field->containing_oneof();
    if (oneof != nullptr && r->HasOneof(*message, oneof)) {
      faults->push_back(absl::StrCat(where, ": only one of its kind may be set, ",
                                     r->GetOneofFieldDescriptor(*message, oneof)->name(),
                                     " is set too"));
      continue;
    }
    FillField(value, where, field, message, faults);
  }
}

}  // namespace shiftadd::cli
