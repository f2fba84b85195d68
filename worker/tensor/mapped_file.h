// A read-only memory map of a file.
#ifndef SHIFTADD_WORKER_TENSOR_MAPPED_FILE_H_
#define SHIFTADD_WORKER_TENSOR_MAPPED_FILE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

// Thread-safe once open. The file must not be truncated while it is mapped.
class MappedFile {
 public:
  // NOT_FOUND if there is none, INVALID_ARGUMENT if it is not a regular file; the message names the
  // path.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  absl::string_view data() const { return {static_cast<const char*>(address_), size_}; }

 private:
  MappedFile(void* address, size_t size) : address_(address), size_(size) {}
  void* address_;
  size_t size_;
};

// The whole of a small text file (configuration, tokenizer). RESOURCE_EXHAUSTED above `limit`
// bytes.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t limit);

// Creates or replaces a file. Errors name the path.
absl::Status WriteFile(const std::string& path, absl::string_view data);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TENSOR_MAPPED_FILE_H_
