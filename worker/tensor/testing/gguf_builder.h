// Builds GGUF files in memory, for tests.
#ifndef SHIFTADD_WORKER_TENSOR_TESTING_GGUF_BUILDER_H_
#define SHIFTADD_WORKER_TENSOR_TESTING_GGUF_BUILDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace shiftadd::testing {

// Not thread-safe. Nothing is checked: tests also build wrong files with it.
class GgufBuilder {
 public:
  void AddString(const std::string& key, absl::string_view value);
  void AddU32(const std::string& key, uint32_t value);
  void AddF32(const std::string& key, float value);
  void AddBool(const std::string& key, bool value);
  void AddStrings(const std::string& key, const std::vector<std::string>& values);
  void AddInts(const std::string& key, const std::vector<int32_t>& values);
  // A pair with any type and value bytes.
  void AddRaw(const std::string& key, uint32_t type, absl::string_view value);
  // `shape` row-major, outermost first; written reversed as the format wants. `type` is ggml's
  // number.
  void AddTensor(const std::string& name, uint32_t type, const std::vector<int64_t>& shape,
                 std::string data);

  std::string Finish(uint32_t version = 3) const;

 private:
  struct Tensor {
    std::string name;
    uint32_t type;
    std::vector<int64_t> shape;
    std::string data;
  };
  std::string pairs_;
  uint64_t pair_count_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_TENSOR_TESTING_GGUF_BUILDER_H_
