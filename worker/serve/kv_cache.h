// The key/value cache of one sequence, in pages of kPageTokens tokens.
#ifndef SHIFTADD_WORKER_SERVE_KV_CACHE_H_
#define SHIFTADD_WORKER_SERVE_KV_CACHE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "worker/model/architecture_spec.h"
#include "worker/serve/packed_model.h"
#include "worker/serve/vector_ops.h"

namespace shiftadd {

// Pages in use by all caches of a model. Thread-safe.
using PageCounter = std::shared_ptr<std::atomic<int64_t>>;

// A page holds all blocks' keys ([kv_heads][head_dim][kPageTokens], so that scores of neighbouring
// tokens are one vector) and values ([kv_heads][kPageTokens][value_stride]) of 32 tokens, in fp32
// or in fp16.
// Pages are made when first written and zeroed, and freed once no cache holds them. A page that
// other caches hold too is copied before it is written. Not thread-safe, nor are caches that share
// pages; different rows and heads may be stored by different threads after MakeRoom.
class PagedKvCache : public KvCache {
 public:
  PagedKvCache(const ArchitectureSpec& spec, int64_t capacity, bool halves, PageCounter counter);
  ~PagedKvCache() override;

  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  void Truncate(int64_t length) override;
  int64_t SharePrefix(const KvCache& from, int64_t tokens) override;

  // Makes room for tokens up to `length`, which does not become the length yet.
  bool MakeRoom(int64_t length) override;
  void SetLength(int64_t length) { length_ = length; }
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
  using Page = std::shared_ptr<std::byte[]>;

  void MakePages(size_t first, size_t end);  // throws std::bad_alloc
  int64_t PageBytes() const { return blocks_ * kv_heads_ * (key_bytes_ + value_bytes_); }
  Page NewPage() const;
  // Page pointers from page `from` on; those before are right.
  void IndexPages(size_t from = 0);

  const int64_t blocks_, kv_heads_, head_dim_, capacity_, value_stride_, element_bytes_, key_bytes_,
      value_bytes_;  // of one head's page
  int64_t length_ = 0;
  std::vector<Page> pages_;
  std::vector<std::vector<const void*>> keys_;  // [blocks * kv_heads][pages]
  std::vector<std::vector<const void*>> values_;
  PageCounter counter_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_KV_CACHE_H_
