// PackedModel on an NVIDIA GPU. Plain C++; part of every build.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_CUDA_MODEL_H_
#define SHIFTADD_WORKER_SERVE_CUDA_CUDA_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/serve/packed_model.h"

namespace shiftadd {

struct CudaModelOptions {
  // As on the CPU.
  PackedModelOptions::Precision precision = PackedModelOptions::Precision::kAuto;
  // One path for every number of tokens: a row's numbers do not depend on what else is in the
  // batch, nor on how much of its prompt another cache gave (otherwise in their last bits). Prompts
  // take several times as long.
  bool batch_invariant = false;
  // Tokens for whose keys and values memory is set aside when the model is loaded, or bytes,
  // whichever is more; beyond, memory is taken from the device when they come.
  int64_t cache_tokens = 0, cache_bytes = 0;
  // Off: the kernels of a step are launched one by one. For tests; the numbers are the same.
  bool graphs = true;
};

// What is used: device, compute capability, memory, driver. FAILED_PRECONDITION: this build has no
// CUDA, or there is no driver, one too old, no device, or one that this build has no code for; the
// message says which.
absl::StatusOr<std::string> DescribeCudaDevice();

// The CUDA that this build needs a driver for (13000: 13.0); 0: none was built in.
int CudaVersionOfBuild();
// cuBLAS's name and version: long prompts take it where that is faster. FAILED_PRECONDITION says
// why it cannot be used.
absl::StatusOr<std::string> DescribeCublas();

// As PackedModel::Load, on the current device. Keys and values are kept in fp16.
// RESOURCE_EXHAUSTED: the package does not fit the device's free memory (checked before anything is
// loaded); the message has both numbers. UNIMPLEMENTED names what of the architecture is not
// supported.
absl::StatusOr<std::unique_ptr<PackedModel>> LoadCudaModel(const std::string& config_json,
                                                           const BlobReader& read,
                                                           const CudaModelOptions& options);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_CUDA_CUDA_MODEL_H_
