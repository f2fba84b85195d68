// Device memory for keys and values, in pages that the caches of a model share.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_PAGE_POOL_H_
#define SHIFTADD_WORKER_SERVE_CUDA_PAGE_POOL_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/serve/cuda/device.h"
#include "worker/serve/paged_cache.h"

namespace shiftadd::cuda {

// Thread-safe; made by make_shared. Pages are zero when they are first handed out and finite ever
// after: what a masked key has beside it must not be NaN.
class PagePool : public std::enable_shared_from_this<PagePool> {
 public:
  explicit PagePool(size_t page_bytes) : page_bytes_(page_bytes) {}

  // Makes sure that `pages` are there, used or not. RESOURCE_EXHAUSTED: the device is full.
  absl::Status Reserve(int64_t pages);
  // A page, which comes back when nobody holds it any more. It keeps the pool alive.
  absl::StatusOr<PagedCache::Page> Take();

  size_t page_bytes() const { return page_bytes_; }
  int64_t used() const;

 private:
  absl::Status Grow(int64_t pages);
  void GiveBack(void* page);

  const size_t page_bytes_;
  mutable std::mutex mutex_;
  std::vector<Buffer> slabs_;
  std::vector<void*> free_;  // has room for all pages
  int64_t total_ = 0;
};

// Caches of one pool share pages.
class DeviceCache : public PagedCache {
 public:
  DeviceCache(std::shared_ptr<PagePool> pool, int64_t capacity)
      : PagedCache(capacity, pool.get()), pool_(std::move(pool)) {}

  const PagePool* pool() const { return pool_.get(); }

 private:
  absl::StatusOr<Page> NewPage() override { return pool_->Take(); }
  // No step is under way that reads or writes either: the executor waits for each.
  absl::Status CopyPage(const void* from, void* to) override;

  const std::shared_ptr<PagePool> pool_;
};

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_PAGE_POOL_H_
