// The executor of an ArchitectureSpec on packed weights. No LibTorch. Packed weights stay packed.
#ifndef SHIFTADD_WORKER_SERVE_PACKED_MODEL_H_
#define SHIFTADD_WORKER_SERVE_PACKED_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu_linear.h"
#include "worker/model/architecture_spec.h"
#include "worker/serve/thread_pool.h"

namespace shiftadd {

// Reads a blob by digest, verified.
using BlobReader = std::function<absl::StatusOr<std::string>(const std::string& digest)>;

struct PackedModelOptions {
  int threads = 0;  // 0: as many as the process may use
  // A8 for rotated packages and A16 for others unless set.
  enum class Precision { kAuto, kA8, kA16 } precision = Precision::kAuto;
  kernels::Isa isa = kernels::DetectIsa();
  // Keys and values of the CPU's caches as IEEE halves: half the memory to hold and to read.
  bool half_cache = false;
  std::optional<Crowding> crowding;  // of the CPU's threads; unset: DefaultCrowding
};

// Caches grow by pages of so many tokens.
inline constexpr int64_t kCachePageTokens = 32;

// The key/value cache of one sequence.
class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual int64_t length() const = 0;  // tokens held
  virtual int64_t capacity() const = 0;
  virtual void Truncate(int64_t length) = 0;
  // Makes this cache, which is empty, begin with the first tokens of `from`, a cache of the same
  // model, by sharing its pages: whole ones only, at most `tokens` tokens. Gives how many it holds
  // then. What either appends later stays its own.
  virtual int64_t SharePrefix(const KvCache& from, int64_t tokens) = 0;
  // Takes what memory tokens up to `length` will need, so that appending them takes none. False if
  // there is none; tokens that are held are as they were.
  virtual bool MakeRoom(int64_t length) = 0;
};

// One token of a batch, appended to its sequence's cache.
struct BatchRow {
  int32_t token = 0;
  KvCache* cache = nullptr;
  bool logits = false;  // wanted
  // ForwardSample only: draw the next token in place of giving logits; `logits` must be set.
  bool sample = false;
  float temperature = 0;  // below 1e-6: the likeliest token, of equals the first
  double uniform = 0;     // in [0, 1): which token, by cumulative weight in the order of ids
};

class PackedModel {
 public:
  virtual ~PackedModel() = default;
  // `config_json`: services/packaging/package_format.h. Checks every blob's tensors against the
  // architecture; refuses unknown major versions (FAILED_PRECONDITION). `read` is called by several
  // threads.
  static absl::StatusOr<std::unique_ptr<PackedModel>> Load(const std::string& config_json,
                                                           const BlobReader& read,
                                                           const PackedModelOptions& options);
  virtual const ArchitectureSpec& spec() const = 0;
  virtual uint64_t weight_bytes() const = 0;  // resident
  virtual kernels::Isa isa() const = 0;
  virtual int threads() const = 0;
  // What computes: "cpu", or a GPU and its driver.
  virtual std::string device() const { return "cpu"; }
  // Rows of prompts that one ForwardBatch takes best.
  virtual int64_t step_rows() const { return 128; }
  virtual std::unique_ptr<KvCache> NewCache(int64_t capacity) const = 0;
  // Appends `tokens` to the cache and gives logits: of every token ([n, vocab]) or of the last one
  // ([vocab]). OUT_OF_RANGE if the cache is full; INVALID_ARGUMENT for a token id outside the
  // vocabulary. One caller a model at a time.
  virtual absl::Status Forward(const std::vector<int32_t>& tokens, KvCache* cache, bool all_logits,
                               std::vector<float>* logits) = 0;
  // The same for tokens of several sequences at once; rows of one cache stand together, in order.
  // `logits` gets [rows with `logits` set, vocab]. On an error no cache has changed. On the CPU a
  // row's numbers do not depend on what else is in the batch, nor on how a prompt is cut; on a GPU
  // that holds with CudaModelOptions::batch_invariant, and to rounding without: the number of rows
  // chooses kernels that add in different orders. The same calls give the same bits on either.
  virtual absl::Status ForwardBatch(const std::vector<BatchRow>& rows,
                                    std::vector<float>* logits) = 0;
  // Whether ForwardSample works.
  virtual bool can_sample() const { return false; }
  // ForwardBatch that draws tokens where the logits are: `tokens` gets one of each row with
  // `sample` set, or -1 if no logit of it is finite; `logits` those of the other rows that want
  // them. What Sampler draws with the same number, but where that falls within rounding of a
  // boundary.
  virtual absl::Status ForwardSample(const std::vector<BatchRow>& /*rows*/,
                                     std::vector<float>* /*logits*/,
                                     std::vector<int32_t>* /*tokens*/) {
    return absl::UnimplementedError("this model does not sample");
  }
  // f(i) for all i in [0, items), on the model's threads where it has some: what is left to do with
  // the logits. By the caller of ForwardBatch, between calls of it.
  virtual void ForEach(int64_t items, absl::FunctionRef<void(int64_t)> f) {
    for (int64_t i = 0; i < items; ++i) f(i);
  }
  // Pages that all caches of this model hold now; one that several share counts once. Thread-safe.
  virtual int64_t cache_pages() const = 0;
  // Bytes of a page; 0: not known.
  virtual int64_t cache_page_bytes() const { return 0; }
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_PACKED_MODEL_H_
