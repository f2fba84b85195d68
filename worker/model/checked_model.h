// The ModelSource behind every format: an open TensorSource checked against a spec, and three
// documents.
#ifndef SHIFTADD_WORKER_MODEL_CHECKED_MODEL_H_
#define SHIFTADD_WORKER_MODEL_CHECKED_MODEL_H_

#include <memory>
#include <string>
#include <vector>

#include "worker/model/families.h"
#include "worker/model/model_source.h"

namespace shiftadd {

enum class SourceFormat { kHuggingFace, kGguf };

struct ModelParts {
  std::string path;  // for messages
  SourceFormat format = SourceFormat::kHuggingFace;
  const Family* family = nullptr;
  ArchitectureSpec spec;
  std::unique_ptr<TensorSource> tensors;
  std::vector<std::string> metadata_files;  // absolute
  std::string tokenizer_json;
};

// Checks spec, tokenizer and every tensor (see ModelSource::Open).
absl::StatusOr<std::unique_ptr<ModelSource>> MakeCheckedModel(ModelParts parts);

// Opens the two formats; called by ModelSource::Open.
absl::StatusOr<std::unique_ptr<ModelSource>> OpenHuggingFaceDirectory(const std::string& path);
absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufModel(const std::string& path);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_CHECKED_MODEL_H_
