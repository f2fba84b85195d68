// Reads tensors from files: GGUF, or one or many safetensors. Files are mapped, never loaded whole.
#ifndef SHIFTADD_WORKER_TENSOR_TENSOR_SOURCE_H_
#define SHIFTADD_WORKER_TENSOR_TENSOR_SOURCE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace shiftadd {

enum class DType {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI8,
  kI32,
  kI64,
  kU8,
  kU32,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K
};

// "F32", "Q4_K", …
const char* DTypeName(DType dtype);

struct TensorInfo {
  std::string name;            // as in the file
  std::vector<int64_t> shape;  // row-major, outermost first (GGUF's order is reversed on reading)
  DType dtype = DType::kF32;
  uint64_t bytes = 0;
  std::string file;  // for messages: relative to the root (safetensors), or the path (GGUF)
  int64_t elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

// Thread-safe. Every error names the file and, where there is one, the tensor, with what was found
// and expected.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const std::map<std::string, TensorInfo>& tensors() const = 0;
  // GGUF: every key-value pair (arrays too). ParseSafetensors: "__metadata__". OpenSafetensors: {}.
  virtual const nlohmann::json& metadata() const = 0;
  // Raw bytes of a tensor, valid while the source lives. NOT_FOUND names the tensor.
  virtual absl::StatusOr<absl::string_view> Bytes(const std::string& name) const = 0;
  // Rows [begin, end) of the first dimension as float32, row-major; 1-D tensors are one row per
  // element. INVALID_ARGUMENT, naming the tensor and the element, if a value is NaN or infinite.
  virtual absl::Status ReadRows(const std::string& name, int64_t begin, int64_t end,
                                float* out) const = 0;
  // Absolute paths of the files that hold the tensors.
  virtual const std::vector<std::string>& files() const = 0;
};

// Opens one .gguf file. Headers are checked whole: magic, version, lengths, offsets, overlaps,
// dimensions, types.
absl::StatusOr<std::unique_ptr<TensorSource>> OpenGguf(const std::string& path);
// Opens safetensors files: `paths` in any order; a tensor that stands in two is an error.
absl::StatusOr<std::unique_ptr<TensorSource>> OpenSafetensors(const std::vector<std::string>& paths,
                                                              const std::string& root);
// Parses safetensors that are in memory. `data` must outlive the source.
absl::StatusOr<std::unique_ptr<TensorSource>> ParseSafetensors(absl::string_view data,
                                                               const std::string& name);

// One tensor to be written.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;  // plain types only
  std::vector<int64_t> shape;
  absl::string_view data;  // not owned
};
// A safetensors file, the same bytes for the same set of tensors in any order. The header's names
// are sorted; the data section starts at a multiple of 64 and has no gaps (the format forbids
// them): it is ordered by element width, widest first, then by name, so every tensor lies at a
// multiple of its element's width. `metadata` becomes "__metadata__" (string to string).
absl::StatusOr<std::string> WriteSafetensors(std::vector<TensorToWrite> tensors,
                                             const std::map<std::string, std::string>& metadata);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TENSOR_TENSOR_SOURCE_H_
