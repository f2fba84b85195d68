// From a package to a version that can serve.
#ifndef SHIFTADD_WORKER_SERVE_MODEL_LOADER_H_
#define SHIFTADD_WORKER_SERVE_MODEL_LOADER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "worker/serve/engine.h"
#include "worker/serve/model_registry.h"
#include "worker/serve/package_source.h"
#include "worker/serve/packed_model.h"
#include "worker/serve/server_metrics.h"

namespace shiftadd {

// kAuto: the GPU if it can be used, else the CPU; the log says which and why.
enum class Device { kCpu, kCuda, kAuto };

struct LoadOptions {
  PackedModelOptions model;
  Device device = Device::kCpu;
  bool batch_invariant = false;  // CudaModelOptions
  int64_t context = 0;           // 0: the trained length, at most 8192
  int64_t cache_bytes =
      0;  // for the caches of all sequences; 0: 512 MiB, or a whole context if more
  int queue = 64;
  int sequences = 16;
};

// Loads the package that `location` names now, checks every blob's digest, and runs a token through
// it: INTERNAL if what comes out are no numbers. Errors else as ResolvePackage and
// PackedModel::Load say. `metrics` may be null and must outlive the version.
absl::StatusOr<ModelPtr> LoadModel(const PackageLocation& location, const LoadOptions& options,
                                   ServerMetrics* metrics);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_MODEL_LOADER_H_
