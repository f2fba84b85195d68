// The safetensors format: u64 little-endian header length, a JSON header, the data.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/status_macros.h"
#include "worker/tensor/dtype.h"
#include "worker/tensor/json_text.h"
#include "worker/tensor/tensor_table.h"

namespace shiftadd {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr size_t kMaxDimensions = 8;

struct Span {
  uint64_t begin = 0, end = 0;
  std::string name;
};

absl::Status Fault(const std::string& file, const std::string& tensor, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": tensor '", tensor, "': ", what));
}

absl::StatusOr<DType> ReadDType(const nlohmann::json& entry, const std::string& file,
                                const std::string& name) {
  const auto it = entry.find("dtype");
  if (it == entry.end() || !it->is_string()) {
    return Fault(file, name, "'dtype' is missing or not a string");
  }
  const std::optional<DType> dtype = PlainDTypeByName(it->get_ref<const std::string&>());
  if (!dtype.has_value()) {
    return Fault(file, name,
                 absl::StrCat("dtype ", it->dump(),
                              " is not supported, expected F64, F32, F16, BF16, I64, I32, I8, U32 "
                              "or U8"));
  }
  return *dtype;
}

absl::StatusOr<std::vector<int64_t>> ReadShape(const nlohmann::json& entry, const std::string& file,
                                               const std::string& name) {
  const auto it = entry.find("shape");
  if (it == entry.end() || !it->is_array()) {
    return Fault(file, name, "'shape' is missing or not a list");
  }
  if (it->size() > kMaxDimensions) {
    return Fault(
        file, name,
        absl::StrCat("has ", it->size(), " dimensions, expected at most ", kMaxDimensions));
  }
  std::vector<int64_t> shape;
  for (const nlohmann::json& d : *it) {
    if (!d.is_number_unsigned() || d.get<uint64_t>() > uint64_t{1} << 62) {
      return Fault(
          file, name,
          absl::StrCat("shape ", it->dump(), " is not a list of non-negative integers up to 2^62"));
    }
    shape.push_back(d.get<int64_t>());
  }
  return shape;
}

absl::StatusOr<Span> ReadSpan(const nlohmann::json& entry, uint64_t data_size,
                              const std::string& file, const std::string& name) {
  const auto it = entry.find("data_offsets");
  if (it == entry.end() || !it->is_array() || it->size() != 2 || !(*it)[0].is_number_unsigned() ||
      !(*it)[1].is_number_unsigned()) {
    return Fault(file, name, "'data_offsets' is missing or not two non-negative integers");
  }
  const Span span{(*it)[0].get<uint64_t>(), (*it)[1].get<uint64_t>(), name};
  if (span.begin > span.end || span.end > data_size) {
    return Fault(file, name,
                 absl::StrCat("data_offsets [", span.begin, ", ", span.end,
                              "] do not lie in the data, which has ", data_size,
                              " bytes (a truncated file?)"));
  }
  return span;
}

// Checks one entry of the header and adds it to the table.
absl::StatusOr<Span> AddTensor(const std::string& name, const nlohmann::json& entry,
                               absl::string_view data, const std::string& file,
                               TensorTable* table) {
  if (!entry.is_object()) return Fault(file, name, "its header entry is not an object");
  for (const auto& [key, value] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return Fault(file, name, absl::StrCat("unknown field '", key, "'"));
    }
  }
  TensorInfo info;
  info.name = name;
  info.file = file;
  SA_ASSIGN_OR_RETURN(info.dtype, ReadDType(entry, file, name));
  SA_ASSIGN_OR_RETURN(info.shape, ReadShape(entry, file, name));
  SA_ASSIGN_OR_RETURN(const Span span, ReadSpan(entry, data.size(), file, name));
  const std::optional<uint64_t> bytes = TensorBytes(info.dtype, info.shape);
  const std::string shape = absl::StrCat("[", absl::StrJoin(info.shape, ", "), "]");
  if (!bytes.has_value()) {
    return Fault(file, name, absl::StrCat("shape ", shape, " is too large"));
  }
  info.bytes = *bytes;
  if (span.end - span.begin != *bytes) {
    return Fault(file, name,
                 absl::StrCat("data_offsets hold ", span.end - span.begin, " bytes, expected ",
                              *bytes, " for ", DTypeName(info.dtype), " ", shape));
  }
  SA_RETURN_IF_ERROR(table->Add(std::move(info), data.data() + span.begin));
  return span;
}

// The format allows neither overlaps nor gaps.
absl::Status CheckCover(std::vector<Span> spans, uint64_t data_size, const std::string& file) {
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t position = 0;
  std::string previous = "the start";
  for (const Span& span : spans) {
    if (span.begin < position) {
      return Fault(file, span.name,
                   absl::StrCat("its data at ", span.begin, " overlap those of '", previous,
                                "', which end at ", position));
    }
    if (span.begin > position) {
      return Fault(file, span.name,
                   absl::StrCat("its data start at ", span.begin, ", expected ", position,
                                ": bytes belong to no tensor"));
    }
    position = span.end;
    previous = span.name;
  }
  if (position != data_size) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": tensors end at byte ", position,
                                                   " of the data, which have ", data_size,
                                                   " bytes: bytes belong to no tensor"));
  }
  return absl::OkStatus();
}

absl::Status CheckMetadata(const nlohmann::json& value, const std::string& file) {
  bool good = value.is_object();
  if (good) {
    for (const nlohmann::json& v : value) good = good && v.is_string();
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": '__metadata__' is not an object of strings"));
}

absl::Status ParseInto(absl::string_view file_data, const std::string& file, TensorTable* table,
                       nlohmann::json* metadata) {
  if (file_data.size() < 8) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": has ", file_data.size(),
                                                   " bytes, a safetensors file has at least 8"));
  }
  uint64_t header_size;
  std::memcpy(&header_size, file_data.data(), 8);
  if (header_size > kMaxHeader || header_size > file_data.size() - 8) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": header length ", header_size, " runs past the end of the file, which has ",
        file_data.size(), " bytes (not a safetensors file, or truncated)"));
  }
  SA_ASSIGN_OR_RETURN(const nlohmann::json header,
                      ParseJsonObject(file_data.substr(8, header_size), file + ": header"));
  const absl::string_view data = file_data.substr(8 + header_size);
  std::vector<Span> spans;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      SA_RETURN_IF_ERROR(CheckMetadata(entry, file));
      metadata->update(entry);
      continue;
    }
    SA_ASSIGN_OR_RETURN(Span span, AddTensor(name, entry, data, file, table));
    spans.push_back(std::move(span));
  }
  return CheckCover(std::move(spans), data.size(), file);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TensorSource>> OpenSafetensors(const std::vector<std::string>& paths,
                                                              const std::string& root) {
  auto table = std::make_unique<TensorTable>();
  std::vector<std::string> sorted = paths;
  std::sort(sorted.begin(), sorted.end());
  nlohmann::json ignored = nlohmann::json::object();
  for (const std::string& path : sorted) {
    SA_ASSIGN_OR_RETURN(auto map, MappedFile::Open(path));
    const std::string relative =
        std::filesystem::path(path).lexically_relative(root.empty() ? "." : root).string();
    SA_RETURN_IF_ERROR(
        ParseInto(map->data(), relative.empty() ? path : relative, table.get(), &ignored));
    table->Own(std::move(map));
    table->AddFile(AbsolutePath(path));
  }
  return table;
}

absl::StatusOr<std::unique_ptr<TensorSource>> ParseSafetensors(absl::string_view data,
                                                               const std::string& name) {
  auto table = std::make_unique<TensorTable>();
  nlohmann::json metadata = nlohmann::json::object();
  SA_RETURN_IF_ERROR(ParseInto(data, name, table.get(), &metadata));
  table->SetMetadata(std::move(metadata));
  return table;
}

}  // namespace shiftadd
