#include "worker/tensor/gguf_metadata_reader.h"

#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxKey = 65535;
constexpr uint64_t kMaxString = uint64_t{64} << 20;
constexpr uint64_t kMaxElements = uint64_t{1} << 24;
constexpr int kMaxArrayDepth = 4;

// The format's numbers for types of values.
enum class ValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// The fewest bytes that a value of a type takes; 0 for an unknown type.
uint64_t LeastSize(ValueType type) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kI8:
    case ValueType::kBool:
      return 1;
    case ValueType::kU16:
    case ValueType::kI16:
      return 2;
    case ValueType::kU32:
    case ValueType::kI32:
    case ValueType::kF32:
      return 4;
    case ValueType::kString:
    case ValueType::kU64:
    case ValueType::kI64:
    case ValueType::kF64:
      return 8;
    case ValueType::kArray:
      return 12;
  }
  return 0;
}

class Reader {
 public:
  explicit Reader(GgufCursor* cursor) : cursor_(cursor) {}

  absl::StatusOr<json> Value(ValueType type, const std::string& key, int depth) {
    switch (type) {
      case ValueType::kU8:
        return Number<uint8_t>(key);
      case ValueType::kI8:
        return Number<int8_t>(key);
      case ValueType::kU16:
        return Number<uint16_t>(key);
      case ValueType::kI16:
        return Number<int16_t>(key);
      case ValueType::kU32:
        return Number<uint32_t>(key);
      case ValueType::kI32:
        return Number<int32_t>(key);
      case ValueType::kF32:
        return Number<float>(key);
      case ValueType::kU64:
        return Number<uint64_t>(key);
      case ValueType::kI64:
        return Number<int64_t>(key);
      case ValueType::kF64:
        return Number<double>(key);
      case ValueType::kBool:
        return Bool(key);
      case ValueType::kString:
        return String(key);
      case ValueType::kArray:
        return Array(key, depth);
    }
    return cursor_->Fault(absl::StrCat("metadata '", key, "' has the unknown type ",
                                       static_cast<uint32_t>(type), ", expected 0 to 12"));
  }

 private:
  template <typename T>
  absl::StatusOr<json> Number(const std::string& key) {
    SA_ASSIGN_OR_RETURN(const T value, cursor_->Number<T>(key));
    return json(value);
  }
  absl::StatusOr<json> Bool(const std::string& key) {
    SA_ASSIGN_OR_RETURN(const uint8_t value, cursor_->Number<uint8_t>(key));
    if (value > 1) {
      return cursor_->Fault(
          absl::StrCat("metadata '", key, "' is the boolean ", value, ", expected 0 or 1"));
    }
    return json(value == 1);
  }
  absl::StatusOr<json> String(const std::string& key) {
    SA_ASSIGN_OR_RETURN(std::string value, cursor_->String(key, kMaxString));
    return json(std::move(value));
  }
  absl::StatusOr<json> Array(const std::string& key, int depth) {
    if (depth >= kMaxArrayDepth) {
      return cursor_->Fault(
          absl::StrCat("metadata '", key, "': arrays are nested deeper than ", kMaxArrayDepth));
    }
    SA_ASSIGN_OR_RETURN(const uint32_t raw_type, cursor_->Number<uint32_t>(key));
    const ValueType type = static_cast<ValueType>(raw_type);
    SA_ASSIGN_OR_RETURN(const uint64_t count, cursor_->Number<uint64_t>(key));
    const uint64_t least = LeastSize(type);
    if (least == 0) {
      return cursor_->Fault(absl::StrCat("metadata '", key, "' is an array of the unknown type ",
                                         raw_type, ", expected 0 to 12"));
    }
    if (count > cursor_->remaining() / least || count > kMaxElements - elements_) {
      return cursor_->Fault(absl::StrCat("metadata '", key, "' is an array of ", count,
                                         " elements, more than the file or the limit of ",
                                         kMaxElements, " can hold"));
    }
    elements_ += count;
    json array = json::array();
    array.get_ref<json::array_t&>().reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      SA_ASSIGN_OR_RETURN(json value, Value(type, key, depth + 1));
      array.push_back(std::move(value));
    }
    return array;
  }

  GgufCursor* cursor_;
  uint64_t elements_ = 0;
};

}  // namespace

absl::StatusOr<json> ReadGgufMetadata(GgufCursor* cursor, uint64_t count) {
  Reader reader(cursor);
  json metadata = json::object();
  for (uint64_t i = 0; i < count; ++i) {
    SA_ASSIGN_OR_RETURN(const std::string key,
                        cursor->String(absl::StrCat("metadata key ", i), kMaxKey));
    if (metadata.contains(key)) {
      return cursor->Fault(absl::StrCat("metadata '", key, "' stands twice"));
    }
    SA_ASSIGN_OR_RETURN(const uint32_t type, cursor->Number<uint32_t>(key));
    SA_ASSIGN_OR_RETURN(metadata[key], reader.Value(static_cast<ValueType>(type), key, 0));
  }
  return metadata;
}

}  // namespace shiftadd
