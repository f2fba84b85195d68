// The weights of a package as plain numbers, under canonical names.
#ifndef SHIFTADD_WORKER_EXPORT_PACKAGE_WEIGHTS_H_
#define SHIFTADD_WORKER_EXPORT_PACKAGE_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/model/families.h"
#include "worker/packed/packed_blob.h"
#include "worker/serve/package_config.h"
#include "worker/serve/package_source.h"

namespace shiftadd {

// A tensor of a file: one of the model's, or the parts of a fused one, by their number.
using FileTensor = std::vector<FamilyTensor>;
enum class FileFormat { kHuggingFace, kGguf };
// What a file holds of a model, in order.
std::vector<FileTensor> FileTensors(const std::vector<FamilyTensor>& tensors, FileFormat format);
// The shape there.
std::vector<int64_t> FileShape(const FileTensor& tensor);

// Rows [begin, begin + rows.size() / cols) of a tensor; vectors are one row.
using RowSink = std::function<absl::Status(const std::vector<float>& rows)>;

// Holds one blob at a time besides the head's. Not thread-safe.
class PackageWeights {
 public:
  // Reads and checks the config, the unquantized tensors and the documents.
  static absl::StatusOr<std::unique_ptr<PackageWeights>> Open(ResolvedPackage package);

  const ArchitectureSpec& spec() const { return config_.spec; }
  const Family& family() const { return *family_; }
  const std::string& name() const { return package_.name; }
  const std::string& digest() const { return package_.digest; }
  const nlohmann::json& tokenizer() const { return tokenizer_; }  // tokenizer.json + "shiftadd"

  // Gives `tensor` to `sink` in its canonical order, some rows at a time.
  absl::Status Read(const FamilyTensor& tensor, const RowSink& sink);
  // The same in the order of a file: GGUF's interleaved heads, fused parts.
  absl::Status ReadAsIn(FileFormat format, const FileTensor& tensor, const RowSink& sink);

 private:
  explicit PackageWeights(ResolvedPackage package) : package_(std::move(package)) {}
  absl::StatusOr<PackedLayer> Layer(const std::string& name);
  // Rows [i * head, (i + 1) * head) of each part, then the next i.
  absl::Status ReadFused(const FileTensor& parts, int64_t heads, const RowSink& sink);
  absl::Status ReadInterleaved(const FamilyTensor& tensor, const RowSink& sink);

  const ResolvedPackage package_;
  PackageConfig config_;
  const Family* family_ = nullptr;
  nlohmann::json tokenizer_;
  PackedContext context_;
  std::map<std::string, PackageLayer> layers_;
  std::unique_ptr<PackedHead> head_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_EXPORT_PACKAGE_WEIGHTS_H_
