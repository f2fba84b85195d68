#include "worker/serve/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

namespace shiftadd {

static_assert(kPageTokens == kCachePageTokens);

PagedKvCache::PagedKvCache(const ArchitectureSpec& spec, int64_t capacity, bool halves,
                           PageCounter counter)
    : PagedCache(capacity, counter.get()),
      blocks_(spec.blocks),
      kv_heads_(spec.kv_heads),
      head_dim_(spec.head_dim),
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

absl::StatusOr<PagedCache::Page> PagedKvCache::NewPage() {
  try {
    auto memory = std::make_unique<std::byte[]>(static_cast<size_t>(PageBytes()));
    // The counter follows the page, whichever cache lets go of it last. Counted first: where memory
    // fails, the deleter runs.
    ++*counter_;
    return Page(memory.release(), [counter = counter_](std::byte* data) {
      delete[] data;
      --*counter;
    });
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("there is no memory for a page of the cache");
  }
}

absl::Status PagedKvCache::CopyPage(const void* from, void* to) {
  std::memcpy(to, from, static_cast<size_t>(PageBytes()));
  return absl::OkStatus();
}

void PagedKvCache::PagesChanged(size_t first) {
  for (int64_t h = 0; h < blocks_ * kv_heads_; ++h) {
    std::vector<const void*>& keys = keys_[h];
    std::vector<const void*>& values = values_[h];
    keys.resize(pages().size());
    values.resize(pages().size());
    for (size_t p = first; p < pages().size(); ++p) {
      const std::byte* head =
          static_cast<const std::byte*>(pages()[p].get()) + h * (key_bytes_ + value_bytes_);
      keys[p] = head;
      values[p] = head + key_bytes_;
    }
  }
}

template <class E>
void PagedKvCache::Store(int64_t block, int64_t kv_head, int64_t position, const E* k, const E* v) {
  const int64_t slot = position % kPageTokens;
  std::byte* const head = static_cast<std::byte*>(pages()[position / kPageTokens].get()) +
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
