// What the tasks of one job share inside a worker: the opened source, the executor, activations.
#ifndef SHIFTADD_WORKER_TASKS_JOB_SESSION_H_
#define SHIFTADD_WORKER_TASKS_JOB_SESSION_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "services/blob/blob_store.h"
#include "shiftadd/v1/task.pb.h"
#include "worker/evaluate/variant_model.h"
#include "worker/model/model_source.h"
#include "worker/model/tokenizer.h"
#include "worker/reference/reference_model.h"
#include "worker/tasks/made_boundaries.h"
#include "worker/tasks/phases.h"
#include "worker/tasks/task_runner.h"

namespace shiftadd {

// Token windows of one part: [count, length].
struct TokenWindows {
  int64_t count = 0, length = 0;
  std::vector<int32_t> tokens;
};

// Weights of the tokens of one part for the layers of one block, by kind ("q", "down", …): each
// [count, length, chunks].
struct TokenWeights {
  int64_t count = 0, length = 0, chunks = 0;
  std::map<std::string, std::vector<float>> layers;
};

// Not thread-safe: a worker runs one task at a time.
class JobSession {
 public:
  // Opens the source that `context` names, which must lie under one of the roots (PERMISSION_DENIED
  // otherwise). `store` must outlive the session, or what UseStore puts in its place.
  static absl::StatusOr<std::unique_ptr<JobSession>> Open(const v1::TaskContext& context,
                                                          const TaskRunnerOptions& options,
                                                          BlobStore* store, WorkerMetrics* metrics);
  // The store as the task that begins sees it.
  void UseStore(std::shared_ptr<BlobStore> store) { store_ = std::move(store); }

  const std::string& job_id() const { return job_id_; }
  const std::string& source_path() const { return source_path_; }
  const ModelSource& source() const { return *source_; }
  BlobStore& store() const { return *store_; }
  // For what a task leaves behind (Closing), which may outlive the session.
  std::shared_ptr<const ModelSource> shared_source() const { return source_; }
  std::shared_ptr<BlobStore> shared_store() const { return store_; }
  WorkerMetrics& metrics() const { return *metrics_; }
  int threads() const { return options_.threads; }
  Device device() const { return options_.device; }
  // Whether the weights of so many models, `number_bytes` a number, fit the worker's memory, on a
  // GPU what the worker may use of it.
  bool Fits(int models, int number_bytes = sizeof(float)) const;
  // Blocks that a model may keep in memory: all (0) if twice the model fits.
  int resident_blocks() const { return Fits(2) ? 0 : 1; }
  uint64_t memory_bytes() const { return options_.memory_bytes; }

  // The full-precision executor, made at first use, with resident_blocks().
  absl::StatusOr<ReferenceModel*> model();
  // What FORWARD and PROFILE run: on a GPU a model in bf16 (Device::kCudaHalf), but for those that
  // CalibratesInFloat. Only one of the two is in memory.
  absl::StatusOr<ReferenceModel*> calibration_model();
  // What EVALUATE scores variants against, and where they run themselves: on a GPU with products in
  // bf16. KL is then that of fp32 to 2 % (evaluate_test.cc).
  Device evaluation_device() const;
  absl::StatusOr<ReferenceModel*> evaluation_model();
  // Frees the executors: tasks that load other models call it first.
  void ReleaseModel() {
    model_.reset();
    half_model_.reset();
  }

  // The whole text as token ids, kept for the next task of the same text.
  absl::StatusOr<const std::vector<int32_t>*> TextTokens(const std::string& text_digest);

  absl::StatusOr<TokenWindows> ReadTokens(const std::string& digest);
  absl::StatusOr<std::string> WriteTokens(const TokenWindows& windows);
  absl::StatusOr<HiddenStates> ReadHidden(const std::string& digest);
  // Several, a few at a time; those that this worker has made itself are taken from boundaries(),
  // and are where the model's states are.
  absl::StatusOr<std::vector<HiddenStates>> ReadHidden(const std::vector<std::string>& digests,
                                                       ReferenceModel* model);
  // Of models on a device, whose states are large and whose time is short; null otherwise.
  std::shared_ptr<MadeBoundaries> boundaries() const { return boundaries_; }
  absl::StatusOr<std::string> WriteHidden(const HiddenStates& hidden);
  absl::StatusOr<TokenWeights> ReadTokenWeights(const std::string& digest);

  // Activations of every part that enter held_block(); empty if none are held.
  std::vector<HiddenStates>& held() { return held_; }
  int64_t held_block() const { return held_block_; }
  void SetHeldBlock(int64_t block) { held_block_ = block; }

  // The variants of an evaluation, kept for the next task of the same.
  struct Variants {
    std::string key;
    std::vector<std::unique_ptr<WeightProvider>> weights;
    std::vector<std::unique_ptr<VariantModel>> models;
  };
  Variants& variants() { return variants_; }

 private:
  absl::StatusOr<HiddenStates> GetHidden(const std::string& digest) const;

  JobSession() = default;
  // model_ on `device`, made anew if it is on another.
  absl::StatusOr<ReferenceModel*> ModelOn(Device device, int resident_blocks);
  uint64_t Elements() const;     // of the source's tensors
  uint64_t ModelMemory() const;  // where models are

  std::string job_id_;
  std::string source_path_;
  TaskRunnerOptions options_;
  std::shared_ptr<BlobStore> store_;
  WorkerMetrics* metrics_ = nullptr;
  std::shared_ptr<const ModelSource> source_;
  Device model_device_ = Device::kCpu;  // model_'s
  std::unique_ptr<ReferenceModel> model_, half_model_;
  std::string text_digest_;
  std::vector<int32_t> text_tokens_;
  std::shared_ptr<MadeBoundaries> boundaries_;
  std::vector<HiddenStates> held_;
  int64_t held_block_ = -1;
  Variants variants_;
};

// The scratch blob of `hidden`'s shape; rows: [count, length, hidden], or null for its data. Any
// thread may.
absl::StatusOr<std::string> HiddenBlob(const HiddenStates& hidden, const float* rows = nullptr);

absl::StatusOr<std::string> TokenWeightsBlob(const TokenWeights& weights);

// The absolute path of a file:// URI.
absl::StatusOr<std::string> PathOfUri(const std::string& uri);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_JOB_SESSION_H_
