#include "worker/serve/kv_cache.h"

#include <algorithm>
#include <utility>

namespace shiftadd {

static_assert(kPageTokens == kCachePageTokens);

PagedKvCache::PagedKvCache(const ArchitectureSpec& spec, int64_t capacity, PageCounter counter)
    : blocks_(spec.blocks),
      kv_heads_(spec.kv_heads),
      head_dim_(spec.head_dim),
      capacity_(std::max<int64_t>(capacity, 0)),
      value_stride_((spec.head_dim + 15) / 16 * 16),
      key_floats_(spec.head_dim * kPageTokens),
      value_floats_(value_stride_ * kPageTokens),
      keys_(spec.blocks * spec.kv_heads),
      values_(spec.blocks * spec.kv_heads),
      counter_(std::move(counter)) {}

PagedKvCache::~PagedKvCache() = default;

int64_t PagedKvCache::PageBytes(const ArchitectureSpec& spec) {
  const int64_t width = spec.head_dim + (spec.head_dim + 15) / 16 * 16;
  return spec.blocks * spec.kv_heads * width * kPageTokens * static_cast<int64_t>(sizeof(float));
}

PagedKvCache::Page PagedKvCache::NewPage() const {
  // The counter follows the page, whichever cache lets go of it last.
  Page page(new float[static_cast<size_t>(PageFloats())](), [counter = counter_](float* data) {
    delete[] data;
    --*counter;
  });
  ++*counter_;
  return page;
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
  if (other->blocks_ != blocks_ || other->kv_heads_ != kv_heads_ || other->head_dim_ != head_dim_) {
    return 0;
  }
  const int64_t whole = std::min({tokens, other->length_, capacity_}) / kPageTokens;
  if (whole <= 0) return 0;
  pages_.assign(other->pages_.begin(), other->pages_.begin() + whole);
  length_ = whole * kPageTokens;
  IndexPages();
  return length_;
}

void PagedKvCache::Reserve(int64_t length) {
  const size_t need = static_cast<size_t>((length + kPageTokens - 1) / kPageTokens);
  const size_t writes = static_cast<size_t>(length_ / kPageTokens);  // the first page written
  bool changed = need > pages_.size();
  for (size_t p = writes; p < std::min(need, pages_.size()); ++p) {
    if (pages_[p].use_count() == 1) continue;
    Page own = NewPage();
    std::copy_n(pages_[p].get(), PageFloats(), own.get());
    pages_[p] = std::move(own);
    changed = true;
  }
  if (!changed) return;
  while (pages_.size() < need) pages_.push_back(NewPage());
  IndexPages(writes);
}

void PagedKvCache::IndexPages(size_t from) {
  for (int64_t h = 0; h < blocks_ * kv_heads_; ++h) {
    std::vector<const float*>& keys = keys_[h];
    std::vector<const float*>& values = values_[h];
    const size_t known = std::min({from, keys.size(), pages_.size()});
    keys.resize(pages_.size());
    values.resize(pages_.size());
    for (size_t p = known; p < pages_.size(); ++p) {
      keys[p] = pages_[p].get() + h * (key_floats_ + value_floats_);
      values[p] = keys[p] + key_floats_;
    }
  }
}

void PagedKvCache::Store(int64_t block, int64_t kv_head, int64_t position, const float* k,
                         const float* v) {
  const int64_t slot = position % kPageTokens;
  float* keys = pages_[position / kPageTokens].get() +
                (block * kv_heads_ + kv_head) * (key_floats_ + value_floats_);
  for (int64_t d = 0; d < head_dim_; ++d) keys[d * kPageTokens + slot] = k[d];
  std::copy_n(v, head_dim_, keys + key_floats_ + slot * value_stride_);
}

const float* const* PagedKvCache::Keys(int64_t block, int64_t kv_head) const {
  return keys_[block * kv_heads_ + kv_head].data();
}

const float* const* PagedKvCache::Values(int64_t block, int64_t kv_head) const {
  return values_[block * kv_heads_ + kv_head].data();
}

bool PagedKvCache::Fits(const ArchitectureSpec& spec) const {
  return blocks_ == spec.blocks && kv_heads_ == spec.kv_heads && head_dim_ == spec.head_dim;
}

}  // namespace shiftadd
