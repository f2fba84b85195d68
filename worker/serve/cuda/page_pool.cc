#include "worker/serve/cuda/page_pool.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::cuda {
namespace {

// Few allocations, yet no more memory than is soon used.
constexpr size_t kSlabBytes = size_t{64} << 20;

int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

absl::Status PagePool::Grow(int64_t pages) {
  Buffer slab;
  const size_t bytes = static_cast<size_t>(pages) * page_bytes_;
  SA_RETURN_IF_ERROR(ToStatus(slab.Allocate(bytes)));
  SA_RETURN_IF_ERROR(ToStatus(cudaMemset(slab.as<char>(), 0, bytes), "clearing the cache"));
  // Other streams do not wait for the default one.
  SA_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(nullptr), "clearing the cache"));
  for (int64_t i = pages - 1; i >= 0; --i) {
    free_.push_back(reinterpret_cast<__half*>(slab.as<char>() + i * page_bytes_));
  }
  total_ += pages;
  slabs_.push_back(std::move(slab));
  return absl::OkStatus();
}

absl::Status PagePool::Reserve(int64_t pages) {
  std::lock_guard<std::mutex> lock(mutex_);
  return pages > total_ ? Grow(pages - total_) : absl::OkStatus();
}

absl::Status PagePool::Take(int64_t count, std::vector<__half*>* pages) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t missing = count - static_cast<int64_t>(free_.size());
  if (missing > 0) {
    const int64_t slab = std::max<int64_t>(missing, static_cast<int64_t>(kSlabBytes / page_bytes_));
    absl::Status status = Grow(slab);
    if (!status.ok() && slab > missing) status = Grow(missing);
    if (!status.ok()) {
      return Annotate(
          status, absl::StrCat("keys and values: ", total_ - free_.size(), " pages of ",
                               page_bytes_, " bytes are in use and ", count, " more are wanted"));
    }
  }
  pages->insert(pages->end(), free_.end() - count, free_.end());
  free_.resize(free_.size() - static_cast<size_t>(count));
  return absl::OkStatus();
}

void PagePool::GiveBack(std::vector<__half*>* pages, size_t keep) {
  if (pages->size() <= keep) return;
  std::lock_guard<std::mutex> lock(mutex_);
  free_.insert(free_.end(), pages->begin() + static_cast<int64_t>(keep), pages->end());
  pages->resize(keep);
}

int64_t PagePool::used() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return total_ - static_cast<int64_t>(free_.size());
}

void PagedCache::Truncate(int64_t length) {
  length_ = std::clamp<int64_t>(length, 0, length_);
  pool_->GiveBack(&pages_, static_cast<size_t>(PagesFor(length_)));
}

absl::Status PagedCache::Reserve(int64_t length) {
  const int64_t need = PagesFor(length) - static_cast<int64_t>(pages_.size());
  return need > 0 ? pool_->Take(need, &pages_) : absl::OkStatus();
}

}  // namespace shiftadd::cuda
