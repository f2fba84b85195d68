#include "worker/tensor/tensor_table.h"

#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/tensor/dequantize.h"
#include "worker/tensor/dtype.h"

namespace shiftadd {
namespace {

int64_t RowElements(const TensorInfo& info) {
  int64_t n = 1;
  for (size_t i = 1; i < info.shape.size(); ++i) n *= info.shape[i];
  return n;
}

absl::Status CheckFinite(const TensorInfo& info, int64_t first, int64_t count, const float* data) {
  for (int64_t i = 0; i < count; ++i) {
    if (std::isfinite(data[i])) continue;
    const int64_t row = RowElements(info);
    const int64_t element = first + i;
    return absl::InvalidArgumentError(
        absl::StrCat(info.file, ": tensor '", info.name, "': element ", element, " (row ",
                     element / row, ", column ", element % row, ") is ",
                     std::isnan(data[i]) ? "NaN" : "infinite", ", expected a finite number"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status TensorTable::Add(TensorInfo info, const char* data) {
  const std::string name = info.name;
  const auto it = tensors_.find(name);
  if (it != tensors_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(info.file, ": tensor '", name, "' stands twice, first in ", it->second.file));
  }
  tensors_.emplace(name, std::move(info));
  data_.emplace(name, data);
  return absl::OkStatus();
}

absl::StatusOr<absl::string_view> TensorTable::Bytes(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat(files_.empty() ? "the source" : files_.front(),
                                            ": has no tensor '", name, "'"));
  }
  return absl::string_view(data_.at(name), it->second.bytes);
}

absl::Status TensorTable::ReadRows(const std::string& name, int64_t begin, int64_t end,
                                   float* out) const {
  SA_ASSIGN_OR_RETURN(const absl::string_view bytes, Bytes(name));
  const TensorInfo& info = tensors_.at(name);
  const int64_t rows = info.shape.empty() ? 1 : info.shape[0];
  if (begin < 0 || end < begin || end > rows) {
    return absl::OutOfRangeError(absl::StrCat(info.file, ": tensor '", name, "': rows [", begin,
                                              ", ", end, ") asked for, it has ", rows));
  }
  const int64_t row = RowElements(info);
  Dequantize(info.dtype, bytes.data(), begin * row, end * row, out);
  return CheckFinite(info, begin * row, (end - begin) * row, out);
}

std::string AbsolutePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

}  // namespace shiftadd
