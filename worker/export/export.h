// A package as a model that other programs load: dequantized to fp16.
#ifndef SHIFTADD_WORKER_EXPORT_EXPORT_H_
#define SHIFTADD_WORKER_EXPORT_EXPORT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/export/package_weights.h"

namespace shiftadd {

// "hf-fp16": a Hugging Face directory (config.json, model.safetensors or numbered shards with an
// index, tokenizer.json, tokenizer_config.json, generation_config.json). "gguf": model-f16.gguf
// (matrices F16, vectors F32).
enum class ExportFormat { kHuggingFace, kGguf };

struct ExportOptions {
  ExportFormat format = ExportFormat::kHuggingFace;
  uint64_t shard_bytes = uint64_t{4} << 30;  // of one .safetensors file
};

// Writes into `dir`, which must not exist or be an empty folder: FAILED_PRECONDITION otherwise.
// Written aside and renamed: on an error `dir` is as it was. INVALID_ARGUMENT names a tensor with a
// number beyond fp16. UNIMPLEMENTED: the format cannot say what the model is.
absl::Status ExportPackage(PackageWeights* weights, const ExportOptions& options,
                           const std::string& dir);

// The parts of it; `folder` exists. Internal to worker/export.
absl::Status WriteHuggingFace(PackageWeights* weights, uint64_t shard_bytes,
                              const std::string& folder);
absl::Status WriteGguf(PackageWeights* weights, const std::string& folder);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_EXPORT_EXPORT_H_
