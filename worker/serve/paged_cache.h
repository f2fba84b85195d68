// Which pages a sequence's cache has, wherever they lie: what the caches of all executors share.
#ifndef SHIFTADD_WORKER_SERVE_PAGED_CACHE_H_
#define SHIFTADD_WORKER_SERVE_PAGED_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/serve/packed_model.h"

namespace shiftadd {

// Pages are made when first written. One that other caches hold too is copied before it is written,
// and freed by the last that holds it. Not thread-safe, nor are caches that share pages.
class PagedCache : public KvCache {
 public:
  // Its deleter gives the memory back.
  using Page = std::shared_ptr<void>;

  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  void Truncate(int64_t length) override;
  int64_t SharePrefix(const KvCache& from, int64_t tokens) override;
  bool MakeRoom(int64_t length) override;

  // MakeRoom that says why not. What could be made stays, for another try.
  absl::Status Reserve(int64_t length);
  void SetLength(int64_t length) { length_ = length; }
  const std::vector<Page>& pages() const { return pages_; }

 protected:
  // Caches of one `maker` share pages.
  PagedCache(int64_t capacity, const void* maker);

 private:
  virtual absl::StatusOr<Page> NewPage() = 0;
  virtual absl::Status CopyPage(const void* from, void* to) = 0;
  // Pages from number `first` on are others than they were. Told again if it throws.
  virtual void PagesChanged(size_t /*first*/) {}

  const int64_t capacity_;
  const void* const maker_;
  int64_t length_ = 0;
  std::vector<Page> pages_;
  size_t told_ = 0;  // of pages before it PagesChanged knows
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_PAGED_CACHE_H_
