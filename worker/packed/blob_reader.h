// Typed, checked access to a safetensors blob in memory. Internal to worker/packed.
#ifndef SHIFTADD_WORKER_PACKED_BLOB_READER_H_
#define SHIFTADD_WORKER_PACKED_BLOB_READER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {

// Every error is an INVALID_ARGUMENT that begins with the label. Remembers which tensors were asked
// for.
class SafetensorsBlob {
 public:
  static absl::StatusOr<SafetensorsBlob> Open(std::string blob, absl::string_view label);

  const std::shared_ptr<const std::string>& bytes() const { return bytes_; }
  const std::map<std::string, TensorInfo>& tensors() const { return source_->tensors(); }
  bool Has(const std::string& tensor) const { return tensors().count(tensor) > 0; }

  // "__metadata__": a string, or a whole decimal number in [min, max].
  absl::StatusOr<std::string> Text(const std::string& key) const;
  absl::StatusOr<int64_t> Number(const std::string& key, int64_t min, int64_t max) const;

  // The data of a tensor, which must have this type and shape, aligned to its element. Valid while
  // bytes() lives.
  template <typename T>
  absl::StatusOr<const T*> Tensor(const std::string& name, DType dtype,
                                  const std::vector<int64_t>& shape) {
    absl::StatusOr<const char*> data = Data(name, dtype, shape, alignof(T));
    if (!data.ok()) return data.status();
    return reinterpret_cast<const T*>(*data);
  }
  // A tensor of fp16 numbers, all finite.
  absl::StatusOr<const uint16_t*> Halves(const std::string& name,
                                         const std::vector<int64_t>& shape);
  // F32, F16 or BF16 of this shape, as finite float32.
  absl::StatusOr<std::vector<float>> Floats(const std::string& name,
                                            const std::vector<int64_t>& shape);

  // An error naming a tensor that nobody asked for, if there is one.
  absl::Status ExpectAllRead() const;

  absl::Status Fault(absl::string_view what) const;

 private:
  absl::StatusOr<const char*> Data(const std::string& name, DType dtype,
                                   const std::vector<int64_t>& shape, size_t alignment);
  absl::StatusOr<const TensorInfo*> Find(const std::string& name,
                                         const std::vector<int64_t>& shape);

  std::string label_;
  std::shared_ptr<const std::string> bytes_;
  std::unique_ptr<TensorSource> source_;
  std::map<std::string, std::string> metadata_;
  std::set<std::string> read_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_PACKED_BLOB_READER_H_
