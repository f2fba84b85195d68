#include "worker/serve/cuda/page_pool.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/serve/cuda/step.h"

namespace shiftadd::cuda {
namespace {

static_assert(kPageTokens == kCachePageTokens);

// Few allocations, yet no more memory than is soon used.
constexpr size_t kSlabBytes = size_t{64} << 20;

}  // namespace

absl::Status PagePool::Grow(int64_t pages) {
  Buffer slab;
  const size_t bytes = static_cast<size_t>(pages) * page_bytes_;
  SA_RETURN_IF_ERROR(ToStatus(slab.Allocate(bytes)));
  SA_RETURN_IF_ERROR(ToStatus(cudaMemset(slab.as<char>(), 0, bytes), "clearing the cache"));
  // Other streams do not wait for the default one.
  SA_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(nullptr), "clearing the cache"));
  char* const base = slab.as<char>();
  free_.reserve(static_cast<size_t>(total_ + pages));
  slabs_.push_back(std::move(slab));
  total_ += pages;
  for (int64_t i = pages - 1; i >= 0; --i) free_.push_back(base + i * page_bytes_);
  return absl::OkStatus();
}

absl::Status PagePool::Reserve(int64_t pages) {
  std::lock_guard<std::mutex> lock(mutex_);
  return pages > total_ ? Grow(pages - total_) : absl::OkStatus();
}

absl::StatusOr<PagedCache::Page> PagePool::Take() {
  void* page = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) {
      const auto slab = std::max<int64_t>(1, static_cast<int64_t>(kSlabBytes / page_bytes_));
      absl::Status status = Grow(slab);
      if (!status.ok() && slab > 1) status = Grow(1);
      if (!status.ok()) {
        return Annotate(status, absl::StrCat("keys and values: all ", total_, " pages of ",
                                             page_bytes_, " bytes are in use"));
      }
    }
    page = free_.back();
    free_.pop_back();
  }
  return PagedCache::Page(page, [pool = shared_from_this()](void* of) { pool->GiveBack(of); });
}

void PagePool::GiveBack(void* page) {
  std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(page);
}

int64_t PagePool::used() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return total_ - static_cast<int64_t>(free_.size());
}

absl::Status DeviceCache::CopyPage(const void* from, void* to) {
  const char kWhat[] = "copying a page of the cache";
  SA_RETURN_IF_ERROR(ToStatus(
      cudaMemcpyAsync(to, from, pool_->page_bytes(), cudaMemcpyDeviceToDevice, nullptr), kWhat));
  return ToStatus(cudaStreamSynchronize(nullptr), kWhat);
}

}  // namespace shiftadd::cuda
