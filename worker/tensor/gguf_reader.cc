// GGUF versions 2 and 3: magic, counts, key-value pairs, tensor descriptions, aligned data.
#include <algorithm>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "services/base/status_macros.h"
#include "worker/tensor/dtype.h"
#include "worker/tensor/gguf_cursor.h"
#include "worker/tensor/gguf_metadata_reader.h"
#include "worker/tensor/json_text.h"
#include "worker/tensor/tensor_table.h"

namespace shiftadd {
namespace {

constexpr uint64_t kMaxTensorName = 4096;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMinPair = 8 + 4 + 1;  // key length, type, one byte
constexpr uint64_t kMinTensor =
    8 + 4 + 8 + 4 + 8;  // name length, rank, one dimension, type, offset

struct GgmlType {
  uint32_t number;
  DType dtype;
};
constexpr GgmlType kTypes[] = {
    {0, DType::kF32},   {1, DType::kF16},   {2, DType::kQ4_0},  {3, DType::kQ4_1},
    {6, DType::kQ5_0},  {7, DType::kQ5_1},  {8, DType::kQ8_0},  {12, DType::kQ4_K},
    {13, DType::kQ5_K}, {14, DType::kQ6_K}, {24, DType::kI8},   {26, DType::kI32},
    {27, DType::kI64},  {28, DType::kF64},  {30, DType::kBF16},
};

struct Placed {
  TensorInfo info;
  uint64_t offset = 0;
};

absl::Status Fault(const GgufCursor& cursor, const std::string& tensor, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(cursor.file(), ": tensor '", tensor, "': ", what));
}

absl::StatusOr<uint32_t> ReadPreamble(absl::string_view data, GgufCursor* cursor) {
  SA_ASSIGN_OR_RETURN(const uint32_t magic, cursor->Number<uint32_t>("the magic number"));
  if (magic != 0x46554747u) {  // "GGUF"
    return absl::InvalidArgumentError(absl::StrCat(cursor->file(), ": starts with \"",
                                                   absl::CHexEscape(data.substr(0, 4)),
                                                   "\", expected \"GGUF\""));
  }
  SA_ASSIGN_OR_RETURN(const uint32_t version, cursor->Number<uint32_t>("the version"));
  if (version == 2 || version == 3) return version;
  if (version == 0x02000000u || version == 0x03000000u) {
    return absl::InvalidArgumentError(
        absl::StrCat(cursor->file(), ": is big-endian, expected little-endian"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(cursor->file(), ": GGUF version ", version, ", expected 2 or 3"));
}

absl::StatusOr<uint64_t> Alignment(const nlohmann::json& metadata, const GgufCursor& cursor) {
  const auto it = metadata.find("general.alignment");
  if (it == metadata.end()) return 32;
  const uint64_t value = it->is_number_unsigned() ? it->get<uint64_t>() : 0;
  if (value == 0 || value > 65536 || (value & (value - 1)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(cursor.file(),
                                                   ": metadata 'general.alignment' is ", value,
                                                   ", expected a power of two up to 65536"));
  }
  return value;
}

absl::StatusOr<Placed> ReadTensor(GgufCursor* cursor, uint64_t index) {
  Placed placed;
  TensorInfo& info = placed.info;
  SA_ASSIGN_OR_RETURN(info.name,
                      cursor->String(absl::StrCat("the name of tensor ", index), kMaxTensorName));
  if (!IsValidUtf8(info.name)) {
    return cursor->Fault(absl::StrCat("the name of tensor ", index, " is not UTF-8"));
  }
  const std::string what = absl::StrCat("tensor '", info.name, "'");
  info.file = cursor->file();
  SA_ASSIGN_OR_RETURN(const uint32_t rank, cursor->Number<uint32_t>(what));
  if (rank < 1 || rank > kMaxDimensions) {
    return Fault(*cursor, info.name,
                 absl::StrCat("has ", rank, " dimensions, expected 1 to ", kMaxDimensions));
  }
  for (uint32_t i = 0; i < rank; ++i) {
    SA_ASSIGN_OR_RETURN(const uint64_t d, cursor->Number<uint64_t>(what));
    if (d == 0 || d > uint64_t{1} << 62) {
      return Fault(*cursor, info.name,
                   absl::StrCat("dimension ", i, " is ", d, ", expected 1 to 2^62"));
    }
    info.shape.insert(info.shape.begin(), static_cast<int64_t>(d));
  }
  SA_ASSIGN_OR_RETURN(const uint32_t type, cursor->Number<uint32_t>(what));
  const auto known = std::find_if(std::begin(kTypes), std::end(kTypes),
                                  [&](const GgmlType& t) { return t.number == type; });
  if (known == std::end(kTypes)) {
    return Fault(*cursor, info.name,
                 absl::StrCat("has ggml type ", type,
                              ", which is not supported, expected F32, F16, BF16, Q4_0, Q4_1, "
                              "Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K"));
  }
  info.dtype = known->dtype;
  const std::optional<uint64_t> bytes = TensorBytes(info.dtype, info.shape);
  if (!bytes.has_value()) {
    return Fault(*cursor, info.name,
                 absl::StrCat("shape [", absl::StrJoin(info.shape, ", "),
                              "] is too large or does not fill blocks of ",
                              LayoutOf(info.dtype).elements, " (", DTypeName(info.dtype), ")"));
  }
  info.bytes = *bytes;
  SA_ASSIGN_OR_RETURN(placed.offset, cursor->Number<uint64_t>(what));
  return placed;
}

// Inside the data, aligned, no overlaps.
absl::Status CheckPlaces(std::vector<Placed> tensors, uint64_t data_size, uint64_t alignment,
                         const GgufCursor& cursor) {
  std::sort(tensors.begin(), tensors.end(),
            [](const Placed& a, const Placed& b) { return a.offset < b.offset; });
  const Placed* previous = nullptr;
  for (const Placed& t : tensors) {
    if (t.offset % alignment != 0) {
      return Fault(
          cursor, t.info.name,
          absl::StrCat("offset ", t.offset, " is not a multiple of the alignment ", alignment));
    }
    if (t.offset > data_size || t.info.bytes > data_size - t.offset) {
      return Fault(cursor, t.info.name,
                   absl::StrCat("its ", t.info.bytes, " bytes at offset ", t.offset,
                                " run past the end of the data, which have ", data_size,
                                " bytes (truncated?)"));
    }
    if (previous != nullptr && t.offset < previous->offset + previous->info.bytes) {
      return Fault(cursor, t.info.name,
                   absl::StrCat("its data at offset ", t.offset, " overlap those of '",
                                previous->info.name, "'"));
    }
    previous = &t;
  }
  return absl::OkStatus();
}

absl::Status ParseInto(absl::string_view data, const std::string& path, TensorTable* table) {
  GgufCursor cursor(data, path);
  SA_RETURN_IF_ERROR(ReadPreamble(data, &cursor).status());
  SA_ASSIGN_OR_RETURN(const uint64_t tensor_count, cursor.Number<uint64_t>("the tensor count"));
  SA_ASSIGN_OR_RETURN(const uint64_t pair_count, cursor.Number<uint64_t>("the metadata count"));
  if (tensor_count > cursor.remaining() / kMinTensor ||
      pair_count > cursor.remaining() / kMinPair) {
    return cursor.Fault(absl::StrCat(tensor_count, " tensors and ", pair_count,
                                     " metadata pairs are more than the file can hold"));
  }
  SA_ASSIGN_OR_RETURN(nlohmann::json metadata, ReadGgufMetadata(&cursor, pair_count));
  SA_ASSIGN_OR_RETURN(const uint64_t alignment, Alignment(metadata, cursor));
  std::vector<Placed> tensors;
  tensors.reserve(tensor_count);
  for (uint64_t i = 0; i < tensor_count; ++i) {
    SA_ASSIGN_OR_RETURN(Placed placed, ReadTensor(&cursor, i));
    tensors.push_back(std::move(placed));
  }
  const uint64_t start = (cursor.position() + alignment - 1) / alignment * alignment;
  const uint64_t data_size = start < data.size() ? data.size() - start : 0;
  SA_RETURN_IF_ERROR(CheckPlaces(tensors, data_size, alignment, cursor));
  for (Placed& t : tensors) {
    SA_RETURN_IF_ERROR(table->Add(std::move(t.info), data.data() + start + t.offset));
  }
  table->SetMetadata(std::move(metadata));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TensorSource>> OpenGguf(const std::string& path) {
  SA_ASSIGN_OR_RETURN(auto map, MappedFile::Open(path));
  auto table = std::make_unique<TensorTable>();
  SA_RETURN_IF_ERROR(ParseInto(map->data(), path, table.get()));
  table->Own(std::move(map));
  table->AddFile(AbsolutePath(path));
  return table;
}

}  // namespace shiftadd
