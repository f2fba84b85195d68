#include "worker/serve/paged_cache.h"

#include <algorithm>
#include <new>
#include <utility>

#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

size_t PagesFor(int64_t tokens) {
  return static_cast<size_t>((tokens + kCachePageTokens - 1) / kCachePageTokens);
}

}  // namespace

PagedCache::PagedCache(int64_t capacity, const void* maker)
    : capacity_(std::max<int64_t>(capacity, 0)), maker_(maker) {}

void PagedCache::Truncate(int64_t length) {
  length_ = std::clamp<int64_t>(length, 0, length_);
  if (PagesFor(length_) < pages_.size()) pages_.resize(PagesFor(length_));
  told_ = std::min(told_, pages_.size());
}

int64_t PagedCache::SharePrefix(const KvCache& from, int64_t tokens) {
  const auto* other = dynamic_cast<const PagedCache*>(&from);
  if (length_ != 0 || !pages_.empty()) return length_;
  if (other == nullptr || other->maker_ != maker_) return 0;
  const int64_t whole = std::min({tokens, other->length_, capacity_}) / kCachePageTokens;
  if (whole <= 0) return 0;
  pages_.assign(other->pages_.begin(), other->pages_.begin() + whole);
  length_ = whole * kCachePageTokens;
  return length_;
}

bool PagedCache::MakeRoom(int64_t length) {
  try {
    return Reserve(length).ok();
  } catch (const std::bad_alloc&) {
    return false;
  }
}

absl::Status PagedCache::Reserve(int64_t length) {
  const size_t end = PagesFor(length);
  pages_.reserve(end);
  absl::Status status;
  for (size_t p = static_cast<size_t>(length_ / kCachePageTokens); p < end; ++p) {
    const bool there = p < pages_.size();
    if (there && pages_[p].use_count() == 1) continue;
    absl::StatusOr<Page> own = NewPage();
    status = own.status();
    if (status.ok() && there) status = CopyPage(pages_[p].get(), own->get());
    if (!status.ok()) break;
    told_ = std::min(told_, p);
    if (!there) pages_.emplace_back();
    pages_[p] = *std::move(own);
  }
  if (told_ < pages_.size()) {
    PagesChanged(told_);
    told_ = pages_.size();
  }
  return status;
}

}  // namespace shiftadd
