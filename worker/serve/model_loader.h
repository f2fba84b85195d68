// From a package to a version that can serve.
#ifndef SHIFTADD_WORKER_SERVE_MODEL_LOADER_H_
#define SHIFTADD_WORKER_SERVE_MODEL_LOADER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
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
  // For the caches of all sequences; 0: 512 MiB, or what memory leaves if less, but at least a
  // whole context.
  int64_t cache_bytes = 0;
  int queue = 64;
  int client_queue = 0;  // EngineOptions
  int sequences = 16;
  std::string memory_root;                           // of MemoryRoom: for tests
  std::function<void(const absl::Status&)> on_lost;  // EngineOptions
};

// What MemoryRoom says, less what the caches of the versions that are loaded may yet grow by on the
// CPU, and less what loads that are under way will yet take.
int64_t UnpromisedRoom(const std::string& memory_root = "");
// Bytes of cache that a version will ask for, but for the least that it needs.
int64_t WantedCacheBytes(const LoadOptions& options);

// What a load that is under way will yet take of the memory that is free: no other load counts on
// it. Thread-safe.
class PromisedMemory {
 public:
  explicit PromisedMemory(std::string memory_root) : memory_root_(std::move(memory_root)) {}
  ~PromisedMemory() { Release(); }
  PromisedMemory(const PromisedMemory&) = delete;
  PromisedMemory& operator=(const PromisedMemory&) = delete;

  // Asks `wanted` how much it wants of the room there is, and promises that much more. No other
  // load asks meanwhile.
  absl::Status Promise(absl::FunctionRef<absl::StatusOr<int64_t>(int64_t room)> wanted);
  // So much of it is in use now: what is free says so by itself.
  void Use(int64_t bytes);
  void Release();

 private:
  const std::string memory_root_;
  int64_t bytes_ = 0;  // under the lock of what is loaded
};

// Loads the package that `location` names now, checks every blob's digest, and runs a token through
// it: INTERNAL if what comes out are no numbers; RESOURCE_EXHAUSTED with the figures if weights and
// caches do not fit in memory beside what other loads will take. Errors else as ResolvePackage and
// PackedModel::Load say. `metrics` may be null and must outlive the version.
absl::StatusOr<ModelPtr> LoadModel(const PackageLocation& location, const LoadOptions& options,
                                   ServerMetrics* metrics);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_MODEL_LOADER_H_
