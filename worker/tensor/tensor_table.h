// The TensorSource behind every format: a table of checked tensors over bytes that stay in memory.
#ifndef SHIFTADD_WORKER_TENSOR_TENSOR_TABLE_H_
#define SHIFTADD_WORKER_TENSOR_TENSOR_TABLE_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/tensor/mapped_file.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {

// Filled by one thread, then immutable and thread-safe.
class TensorTable : public TensorSource {
 public:
  // Adds a tensor whose `info.bytes` bytes at `data` are known to be there. INVALID_ARGUMENT if the
  // name is taken.
  absl::Status Add(TensorInfo info, const char* data);
  // Keeps a map alive as long as the table.
  void Own(std::unique_ptr<MappedFile> file) { maps_.push_back(std::move(file)); }
  void AddFile(std::string absolute_path) { files_.push_back(std::move(absolute_path)); }
  void SetMetadata(nlohmann::json metadata) { metadata_ = std::move(metadata); }

  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  const nlohmann::json& metadata() const override { return metadata_; }
  absl::StatusOr<absl::string_view> Bytes(const std::string& name) const override;
  absl::Status ReadRows(const std::string& name, int64_t begin, int64_t end,
                        float* out) const override;
  const std::vector<std::string>& files() const override { return files_; }

 private:
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, const char*> data_;
  nlohmann::json metadata_ = nlohmann::json::object();
  std::vector<std::string> files_;
  std::vector<std::unique_ptr<MappedFile>> maps_;
};

// `path` made absolute, without "." and "..".
std::string AbsolutePath(const std::string& path);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TENSOR_TENSOR_TABLE_H_
