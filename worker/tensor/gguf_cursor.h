// Reads the little-endian header of a GGUF file, never past its end.
#ifndef SHIFTADD_WORKER_TENSOR_GGUF_CURSOR_H_
#define SHIFTADD_WORKER_TENSOR_GGUF_CURSOR_H_

#include <cstring>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

// Errors are INVALID_ARGUMENT and say the file, what was read and where.
class GgufCursor {
 public:
  GgufCursor(absl::string_view data, std::string file) : data_(data), file_(std::move(file)) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return data_.size() - position_; }
  const std::string& file() const { return file_; }

  template <typename T>
  absl::StatusOr<T> Number(absl::string_view what) {
    if (remaining() < sizeof(T)) return Truncated(what, sizeof(T));
    T value;
    std::memcpy(&value, data_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::string> String(absl::string_view what, uint64_t max_length) {
    auto length = Number<uint64_t>(what);
    if (!length.ok()) return length.status();
    if (*length > remaining()) return Truncated(what, *length);
    if (*length > max_length) {
      return Fault(absl::StrCat(what, " has length ", *length, ", expected at most ", max_length));
    }
    std::string value(data_.substr(position_, *length));
    position_ += *length;
    return value;
  }

  absl::Status Fault(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": at byte ", position_, ": ", what));
  }
  absl::Status Truncated(absl::string_view what, uint64_t needed) const {
    return Fault(absl::StrCat(what, " needs ", needed, " bytes, ", remaining(),
                              " are left in the file (truncated or damaged?)"));
  }

 private:
  absl::string_view data_;
  std::string file_;
  uint64_t position_ = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TENSOR_GGUF_CURSOR_H_
