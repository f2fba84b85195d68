// The head of a GGUF file (version 3): its pairs and its list of tensors.
#ifndef SHIFTADD_WORKER_EXPORT_GGUF_HEADER_H_
#define SHIFTADD_WORKER_EXPORT_GGUF_HEADER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace shiftadd {

inline constexpr uint64_t kGgufAlignment = 32;

// Not thread-safe. Keys are not compared: give each once.
class GgufHeader {
 public:
  void Add(absl::string_view key, absl::string_view value);
  void Add(absl::string_view key, uint32_t value);
  void Add(absl::string_view key, float value);
  void Add(absl::string_view key, bool value);
  void Add(absl::string_view key, const std::vector<std::string>& values);
  void Add(absl::string_view key, const std::vector<int32_t>& values);
  void Add(absl::string_view key, const std::vector<float>& values);
  // `shape` row-major, outermost first. F16 or else F32. The data follow in the order of the calls,
  // each padded to kGgufAlignment.
  void AddTensor(absl::string_view name, const std::vector<int64_t>& shape, bool half);

  // All of it, padded: the data start behind.
  std::string Finish() const;
  // Of the tensors so far, each padded.
  uint64_t data_bytes() const { return offset_; }

 private:
  void AddKey(absl::string_view key, uint32_t type);

  std::string pairs_, tensors_;
  uint64_t pair_count_ = 0, tensor_count_ = 0, offset_ = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_EXPORT_GGUF_HEADER_H_
