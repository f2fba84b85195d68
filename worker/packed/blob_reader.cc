#include "worker/packed/blob_reader.h"

#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "services/base/status_macros.h"
#include "worker/tensor/json_text.h"

namespace shiftadd {
namespace {

std::string Shape(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace

absl::StatusOr<SafetensorsBlob> SafetensorsBlob::Open(std::string blob, absl::string_view label) {
  SafetensorsBlob reader;
  reader.label_ = std::string(label);
  reader.bytes_ = std::make_shared<const std::string>(std::move(blob));
  SA_ASSIGN_OR_RETURN(reader.source_, ParseSafetensors(*reader.bytes_, reader.label_));
  // The header is sound by now. Its "__metadata__" is no tensor, and TensorSource does not show it.
  uint64_t length = 0;
  std::memcpy(&length, reader.bytes_->data(), sizeof(length));
  SA_ASSIGN_OR_RETURN(
      const nlohmann::json header,
      ParseJsonObject(absl::string_view(*reader.bytes_).substr(sizeof(length), length),
                      absl::StrCat(reader.label_, ": header")));
  const auto metadata = header.find("__metadata__");
  if (metadata == header.end()) return reader;
  if (!metadata->is_object()) return reader.Fault("__metadata__ is not an object");
  for (const auto& [key, value] : metadata->items()) {
    if (!value.is_string())
      return reader.Fault(absl::StrCat("metadata '", key, "' is not a string"));
    reader.metadata_[key] = value.get<std::string>();
  }
  return reader;
}

absl::Status SafetensorsBlob::Fault(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(label_, ": ", what));
}

absl::StatusOr<std::string> SafetensorsBlob::Text(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return Fault(absl::StrCat("metadata '", key, "' is missing"));
  return found->second;
}

absl::StatusOr<int64_t> SafetensorsBlob::Number(const std::string& key, int64_t min,
                                                int64_t max) const {
  SA_ASSIGN_OR_RETURN(const std::string text, Text(key));
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < min || value > max) {
    return Fault(absl::StrCat("metadata '", key, "' is '", text, "', expected a whole number from ",
                              min, " to ", max));
  }
  return value;
}

absl::StatusOr<const TensorInfo*> SafetensorsBlob::Find(const std::string& name,
                                                        const std::vector<int64_t>& shape) {
  const auto found = tensors().find(name);
  if (found == tensors().end()) return Fault(absl::StrCat("tensor '", name, "' is missing"));
  if (found->second.shape != shape) {
    return Fault(absl::StrCat("tensor '", name, "' has shape ", Shape(found->second.shape),
                              ", expected ", Shape(shape)));
  }
  read_.insert(name);
  return &found->second;
}

absl::StatusOr<const char*> SafetensorsBlob::Data(const std::string& name, DType dtype,
                                                  const std::vector<int64_t>& shape,
                                                  size_t alignment) {
  SA_ASSIGN_OR_RETURN(const TensorInfo* info, Find(name, shape));
  if (info->dtype != dtype) {
    return Fault(absl::StrCat("tensor '", name, "' is ", DTypeName(info->dtype), ", expected ",
                              DTypeName(dtype)));
  }
  SA_ASSIGN_OR_RETURN(const absl::string_view data, source_->Bytes(name));
  if (reinterpret_cast<uintptr_t>(data.data()) % alignment != 0) {
    return Fault(
        absl::StrCat("tensor '", name, "' does not start at a multiple of ", alignment, " bytes"));
  }
  return data.data();
}

absl::StatusOr<const uint16_t*> SafetensorsBlob::Halves(const std::string& name,
                                                        const std::vector<int64_t>& shape) {
  SA_ASSIGN_OR_RETURN(const uint16_t* values, Tensor<uint16_t>(name, DType::kF16, shape));
  const int64_t count = tensors().at(name).elements();
  for (int64_t i = 0; i < count; ++i) {
    if ((values[i] & 0x7c00) == 0x7c00) {
      return Fault(absl::StrCat("tensor '", name, "', element ", i, " is not finite"));
    }
  }
  return values;
}

absl::StatusOr<std::vector<float>> SafetensorsBlob::Floats(const std::string& name,
                                                           const std::vector<int64_t>& shape) {
  SA_ASSIGN_OR_RETURN(const TensorInfo* info, Find(name, shape));
  if (info->dtype != DType::kF32 && info->dtype != DType::kF16 && info->dtype != DType::kBF16) {
    return Fault(absl::StrCat("tensor '", name, "' is ", DTypeName(info->dtype),
                              ", expected F32, F16 or BF16"));
  }
  std::vector<float> values(info->elements());
  SA_RETURN_IF_ERROR(source_->ReadRows(name, 0, shape[0], values.data()));
  return values;
}

absl::Status SafetensorsBlob::ExpectAllRead() const {
  for (const auto& [name, info] : tensors()) {
    if (read_.count(name) == 0)
      return Fault(absl::StrCat("tensor '", name, "' does not belong here"));
  }
  return absl::OkStatus();
}

}  // namespace shiftadd
