// Device memory for keys and values, in pages that the caches of a model share.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_PAGE_POOL_H_
#define SHIFTADD_WORKER_SERVE_CUDA_PAGE_POOL_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "worker/serve/cuda/device.h"
#include "worker/serve/cuda/step.h"
#include "worker/serve/packed_model.h"

namespace shiftadd::cuda {

// Thread-safe. Pages are zero when they are first handed out and finite ever after: what a masked
// key has beside it must not be NaN.
class PagePool {
 public:
  explicit PagePool(size_t page_bytes) : page_bytes_(page_bytes) {}

  // Makes sure that `pages` are there, used or not. RESOURCE_EXHAUSTED: the device is full.
  absl::Status Reserve(int64_t pages);
  // Appends `count` pages, or none.
  absl::Status Take(int64_t count, std::vector<__half*>* pages);
  // Takes back pages [keep, …).
  void GiveBack(std::vector<__half*>* pages, size_t keep);

  size_t page_bytes() const { return page_bytes_; }
  int64_t used() const;

 private:
  absl::Status Grow(int64_t pages);

  const size_t page_bytes_;
  mutable std::mutex mutex_;
  std::vector<Buffer> slabs_;
  std::vector<__half*> free_;
  int64_t total_ = 0;
};

// Not thread-safe. Keeps its pool alive.
class PagedCache : public KvCache {
 public:
  PagedCache(std::shared_ptr<PagePool> pool, int64_t capacity)
      : pool_(std::move(pool)), capacity_(capacity) {}
  ~PagedCache() override { pool_->GiveBack(&pages_, 0); }

  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  void Truncate(int64_t length) override;

  // Makes room for tokens up to `length`, which does not become the length yet.
  absl::Status Reserve(int64_t length);
  void SetLength(int64_t length) { length_ = length; }
  // Gives back what Reserve took beyond the length.
  void Trim() { Truncate(length_); }
  const std::vector<__half*>& pages() const { return pages_; }
  const PagePool* pool() const { return pool_.get(); }

 private:
  const std::shared_ptr<PagePool> pool_;
  const int64_t capacity_;
  int64_t length_ = 0;
  std::vector<__half*> pages_;
};

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_PAGE_POOL_H_
