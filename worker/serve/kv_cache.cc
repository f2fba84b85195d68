#include "worker/serve/kv_cache.h"

#include <algorithm>
#include <memory>
#include <new>
#include <utility>

namespace shiftadd {

static_assert(kPageTokens == kCachePageTokens);

PagedKvCache::PagedKvCache(const ArchitectureSpec& spec, int64_t capacity, bool halves,
                           PageCounter counter)
    : blocks_(spec.blocks),
      kv_heads_(spec.kv_heads),
      head_dim_(spec.head_dim),
      capacity_(std::max<int64_t>(capacity, 0)),
      value_stride_((spec.head_dim + 15) / 16 * 16),
      element_bytes_(halves ? sizeof(uint16_t) : sizeof(float)),
      key_bytes_(spec.head_dim * kPageTokens * element_bytes_),
      value_bytes_(value_stride_ * kPageTokens * element_bytes_),
      keys_(spec.blocks * spec.kv_heads),
      values_(spec.blocks * spec.kv_heads),
      counter_(std::move(counter)) {}

PagedKvCache::~PagedKvCache() = default;

int64_t PagedKvCache::PageBytes(const ArchitectureSpec& spec, bool halves) {
  return PagedKvCache(spec, 0, halves, nullptr).PageBytes();
}

PagedKvCache::Page PagedKvCache::NewPage() const {
  auto memory = std::make_unique<std::byte[]>(static_cast<size_t>(PageBytes()));
  // The counter follows the page, whichever cache lets go of it last. Counted first: where memory
  // fails, the deleter runs.
  ++*counter_;
  return Page(memory.release(), [counter = counter_](std::byte* data) {
    delete[] data;
    --*counter;
  });
}

void PagedKvCache::Truncate(int64_t length) {
  length_ = std::clamp<int64_t>(length, 0, length_);
  const size_t keep = static_cast<size_t>((length_ + kPageTokens - 1) / kPageTokens);
  if (keep >= pages_.size()) return;
  pages_.resize(keep);
  IndexPages();
}

int64_t PagedKvCache::SharePrefix(const KvCache& from, int64_t tokens) {
  const auto* other = dynamic_cast<const PagedKvCache*>(&from);
  if (other == nullptr || other == this || length_ != 0 || !pages_.empty()) return length_;
  if (other->blocks_ != blocks_ || other->kv_heads_ != kv_heads_ || other->head_dim_ != head_dim_ ||
      other->element_bytes_ != element_bytes_) {
    return 0;
  }
  const int64_t whole = std::min({tokens, other->length_, capacity_}) / kPageTokens;
  if (whole <= 0) return 0;
  pages_.assign(other->pages_.begin(), other->pages_.begin() + whole);
  length_ = whole * kPageTokens;
  IndexPages();
  return length_;
}

bool PagedKvCache::MakeRoom(int64_t length) {
  const size_t first = static_cast<size_t>(length_ / kPageTokens);  // that is written
  const size_t end = static_cast<size_t>((length + kPageTokens - 1) / kPageTokens);
  try {
    MakePages(first, end);
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

// Pages up to `end`, those from `first` on its own. Where memory fails, fewer: what there is
// counts.
void PagedKvCache::MakePages(size_t first, size_t end) {
  bool changed = end > pages_.size();
  pages_.reserve(end);
  for (size_t p = first; p < std::min(end, pages_.size()); ++p) {
    if (pages_[p].use_count() == 1) continue;
    Page own = NewPage();
    std::copy_n(pages_[p].get(), PageBytes(), own.get());
    pages_[p] = std::move(own);
    changed = true;
  }
  if (!changed) return;
  while (pages_.size() < end) pages_.push_back(NewPage());
  IndexPages(first);
}

void PagedKvCache::IndexPages(size_t from) {
  for (int64_t h = 0; h < blocks_ * kv_heads_; ++h) {
    std::vector<const void*>& keys = keys_[h];
    std::vector<const void*>& values = values_[h];
    const size_t known = std::min({from, keys.size(), pages_.size()});
    keys.resize(pages_.size());
    values.resize(pages_.size());
    for (size_t p = known; p < pages_.size(); ++p) {
      const std::byte* head = pages_[p].get() + h * (key_bytes_ + value_bytes_);
      keys[p] = head;
      values[p] = head + key_bytes_;
    }
  }
}

template <class E>
void PagedKvCache::Store(int64_t block, int64_t kv_head, int64_t position, const E* k, const E* v) {
  const int64_t slot = position % kPageTokens;
  std::byte* const head = pages_[position / kPageTokens].get() +
                          (block * kv_heads_ + kv_head) * (key_bytes_ + value_bytes_);
  E* const keys = reinterpret_cast<E*>(head);
  for (int64_t d = 0; d < head_dim_; ++d) keys[d * kPageTokens + slot] = k[d];
  std::copy_n(v, head_dim_, reinterpret_cast<E*>(head + key_bytes_) + slot * value_stride_);
}
template void PagedKvCache::Store(int64_t, int64_t, int64_t, const float*, const float*);
template void PagedKvCache::Store(int64_t, int64_t, int64_t, const uint16_t*, const uint16_t*);

const void* const* PagedKvCache::Keys(int64_t block, int64_t kv_head) const {
  return keys_[block * kv_heads_ + kv_head].data();
}

const void* const* PagedKvCache::Values(int64_t block, int64_t kv_head) const {
  return values_[block * kv_heads_ + kv_head].data();
}

bool PagedKvCache::Fits(const ArchitectureSpec& spec, bool halves) const {
  return element_bytes_ == static_cast<int64_t>(halves ? sizeof(uint16_t) : sizeof(float)) &&
         blocks_ == spec.blocks && kv_heads_ == spec.kv_heads && head_dim_ == spec.head_dim;
}

}  // namespace shiftadd
