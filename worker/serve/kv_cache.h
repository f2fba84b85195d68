// The key/value cache of one sequence on the CPU, in pages of kPageTokens tokens.
#ifndef SHIFTADD_WORKER_SERVE_KV_CACHE_H_
#define SHIFTADD_WORKER_SERVE_KV_CACHE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "worker/model/architecture_spec.h"
#include "worker/serve/paged_cache.h"
#include "worker/serve/vector_ops.h"

namespace shiftadd {

// Pages in use by all caches of a model. Thread-safe.
using PageCounter = std::shared_ptr<std::atomic<int64_t>>;

// A page holds all blocks' keys ([kv_heads][head_dim][kPageTokens], so that scores of neighbouring
// tokens are one vector) and values ([kv_heads][kPageTokens][value_stride]) of 32 tokens, in fp32
// or in fp16, zeroed first. Different rows and heads may be stored by different threads after
// MakeRoom.
class PagedKvCache : public PagedCache {
 public:
  // Caches with one counter are caches of one model.
  PagedKvCache(const ArchitectureSpec& spec, int64_t capacity, bool halves, PageCounter counter);
  ~PagedKvCache() override;

  // Stores k and v ([head_dim] each) of one head of a block at a position that was made room for.
  // E: float, or uint16_t for halves, as the cache was made.
  template <class E>
  void Store(int64_t block, int64_t kv_head, int64_t position, const E* k, const E* v);
  // Page pointers of a head, as AttentionTile wants them; valid until the next MakeRoom or
  // Truncate.
  const void* const* Keys(int64_t block, int64_t kv_head) const;
  const void* const* Values(int64_t block, int64_t kv_head) const;
  int64_t value_stride() const { return value_stride_; }
  // True if the cache was made for a model of this shape.
  bool Fits(const ArchitectureSpec& spec, bool halves) const;
  // Bytes of a page for a model of this shape.
  static int64_t PageBytes(const ArchitectureSpec& spec, bool halves);

 private:
  absl::StatusOr<Page> NewPage() override;
  absl::Status CopyPage(const void* from, void* to) override;
  void PagesChanged(size_t first) override;
  int64_t PageBytes() const { return blocks_ * kv_heads_ * (key_bytes_ + value_bytes_); }

  const int64_t blocks_, kv_heads_, head_dim_, value_stride_, element_bytes_, key_bytes_,
      value_bytes_;                             // of one head's page
  std::vector<std::vector<const void*>> keys_;  // [blocks * kv_heads][pages]
  std::vector<std::vector<const void*>> values_;
  PageCounter counter_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_KV_CACHE_H_
