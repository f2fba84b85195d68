#include "worker/serve/kv_cache.h"

#include <algorithm>
#include <utility>

namespace shiftadd {

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

PagedKvCache::~PagedKvCache() { *counter_ -= static_cast<int64_t>(pages_.size()); }

void PagedKvCache::Truncate(int64_t length) {
  length_ = std::clamp<int64_t>(length, 0, length_);
  const size_t keep = static_cast<size_t>((length_ + kPageTokens - 1) / kPageTokens);
  if (keep >= pages_.size()) return;
  *counter_ -= static_cast<int64_t>(pages_.size() - keep);
  pages_.resize(keep);
  IndexPages();
}

void PagedKvCache::Reserve(int64_t length) {
  const size_t need = static_cast<size_t>((length + kPageTokens - 1) / kPageTokens);
  if (need <= pages_.size()) return;
  *counter_ += static_cast<int64_t>(need - pages_.size());
  while (pages_.size() < need) {
    pages_.push_back(std::make_unique<float[]>(static_cast<size_t>(PageFloats())));
  }
  IndexPages();
}

void PagedKvCache::IndexPages() {
  for (int64_t h = 0; h < blocks_ * kv_heads_; ++h) {
    std::vector<const float*>& keys = keys_[h];
    std::vector<const float*>& values = values_[h];
    const size_t known = std::min(keys.size(), pages_.size());
    keys.resize(pages_.size());
    values.resize(pages_.size());
    for (size_t p = known; p < pages_.size(); ++p) {
      keys[p] = pages_[p].get() + h * (key_floats_ + value_floats_);
      values[p] = keys[p] + key_floats_;
    }
  }
}

void PagedKvCache::Store(int64_t block, int64_t position, const float* k, const float* v) {
  float* page = pages_[position / kPageTokens].get();
  const int64_t slot = position % kPageTokens;
  for (int64_t h = 0; h < kv_heads_; ++h) {
    float* keys = page + (block * kv_heads_ + h) * (key_floats_ + value_floats_);
    float* values = keys + key_floats_ + slot * value_stride_;
    for (int64_t d = 0; d < head_dim_; ++d) keys[d * kPageTokens + slot] = k[h * head_dim_ + d];
    std::copy_n(v + h * head_dim_, head_dim_, values);
  }
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
