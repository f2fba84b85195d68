#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/tensor/dtype.h"
#include "worker/tensor/json_text.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {
namespace {

constexpr size_t kAlignment = 64;

absl::Status CheckTensors(const std::vector<TensorToWrite>& tensors) {
  const std::string* previous = nullptr;
  for (const TensorToWrite& t : tensors) {
    const auto fault = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", t.name, "': ", what));
    };
    if (t.name.empty() || t.name == "__metadata__" || !IsValidUtf8(t.name)) {
      return fault("is not a name for a tensor in a safetensors file");
    }
    if (previous != nullptr && *previous == t.name) return fault("stands twice");
    previous = &t.name;
    if (!IsPlain(t.dtype)) {
      return fault(absl::StrCat(DTypeName(t.dtype), " cannot be written to a safetensors file"));
    }
    const std::optional<uint64_t> bytes = TensorBytes(t.dtype, t.shape);
    if (!bytes.has_value()) return fault("its shape is negative or too large");
    if (*bytes != t.data.size()) {
      return fault(absl::StrCat("has ", t.data.size(), " bytes of data, expected ", *bytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> WriteSafetensors(std::vector<TensorToWrite> tensors,
                                             const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorToWrite& a, const TensorToWrite& b) { return a.name < b.name; });
  SA_RETURN_IF_ERROR(CheckTensors(tensors));
  // The format has no gaps, so wide elements go first: each tensor then starts at a multiple of its
  // element.
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const TensorToWrite& a, const TensorToWrite& b) {
                     return LayoutOf(a.dtype).bytes > LayoutOf(b.dtype).bytes;
                   });
  nlohmann::json header = nlohmann::json::object();  // keys come out sorted
  if (!metadata.empty()) {
    for (const auto& [key, value] : metadata) {
      if (!IsValidUtf8(key) || !IsValidUtf8(value)) {
        return absl::InvalidArgumentError(
            absl::StrCat("metadata '", key, "': the key or the value is not UTF-8"));
      }
    }
    header["__metadata__"] = metadata;
  }
  uint64_t position = 0;
  for (const TensorToWrite& t : tensors) {
    header[t.name] = {{"dtype", DTypeName(t.dtype)},
                      {"shape", t.shape},
                      {"data_offsets", {position, position + t.data.size()}}};
    position += t.data.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 8 + kAlignment - 1) / kAlignment * kAlignment - 8, ' ');
  const uint64_t header_size = text.size();
  std::string out;
  out.reserve(8 + text.size() + position);
  out.append(reinterpret_cast<const char*>(&header_size), 8);
  out.append(text);
  for (const TensorToWrite& t : tensors) out.append(t.data.data(), t.data.size());
  return out;
}

}  // namespace shiftadd
