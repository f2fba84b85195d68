// A file that is written once, from the front to the end.
#ifndef SHIFTADD_WORKER_EXPORT_OUTPUT_FILE_H_
#define SHIFTADD_WORKER_EXPORT_OUTPUT_FILE_H_

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

// Not thread-safe. Errors name the file; after one the others fail too.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  absl::Status Write(absl::string_view bytes);
  // As IEEE binary16. INVALID_ARGUMENT naming `tensor` and the number if it does not fit.
  absl::Status WriteHalves(absl::string_view tensor, const std::vector<float>& values);
  absl::Status WriteFloats(const std::vector<float>& values);
  // Zeros up to a multiple of `alignment`.
  absl::Status Pad(uint64_t alignment);
  absl::Status Close();
  uint64_t size() const { return size_; }

 private:
  const std::string path_;
  std::ofstream out_;
  uint64_t size_ = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_EXPORT_OUTPUT_FILE_H_
