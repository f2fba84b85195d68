#include "worker/export/output_file.h"

#include <cerrno>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "worker/tensor/dtype.h"

namespace shiftadd {

OutputFile::OutputFile(const std::string& path)
    : path_(path), out_(path, std::ios::binary | std::ios::trunc) {}

absl::Status OutputFile::Write(absl::string_view bytes) {
  out_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  size_ += bytes.size();
  if (out_.good()) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(path_, ": cannot be written: ", std::strerror(errno)));
}

absl::Status OutputFile::WriteHalves(absl::string_view tensor, const std::vector<float>& values) {
  std::vector<uint16_t> halves(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    halves[i] = FloatToHalf(values[i]);
    if ((halves[i] & 0x7c00) == 0x7c00) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", tensor, "' holds ", values[i],
                       ", expected numbers that fit fp16 (at most 65504)"));
    }
  }
  return Write({reinterpret_cast<const char*>(halves.data()), halves.size() * sizeof(uint16_t)});
}

absl::Status OutputFile::WriteFloats(const std::vector<float>& values) {
  return Write({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
}

absl::Status OutputFile::Pad(uint64_t alignment) {
  return Write(std::string((alignment - size_ % alignment) % alignment, '\0'));
}

absl::Status OutputFile::Close() {
  out_.close();
  if (out_.good()) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(path_, ": cannot be written: ", std::strerror(errno)));
}

}  // namespace shiftadd
