#include "worker/serve/prefix_store.h"

#include <algorithm>
#include <utility>

namespace shiftadd {
namespace {

// A search looks at all entries.
constexpr size_t kMaxEntries = 1024;

}  // namespace

int64_t CommonPrefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  const auto end = a.begin() + static_cast<int64_t>(std::min(a.size(), b.size()));
  return std::mismatch(a.begin(), end, b.begin()).first - a.begin();
}

void PrefixStore::Add(std::vector<int32_t> tokens, std::unique_ptr<KvCache> cache) {
  const int64_t whole = cache->length() / kCachePageTokens * kCachePageTokens;
  if (whole == 0 || static_cast<int64_t>(tokens.size()) < whole) return;
  cache->Truncate(whole);
  tokens.resize(static_cast<size_t>(whole));
  for (auto it = entries_.begin(); it != entries_.end();) {
    const auto next = std::next(it);
    const int64_t common = CommonPrefix(it->tokens, tokens);
    if (common == whole) {  // nothing new
      entries_.splice(entries_.begin(), entries_, it);
      return;
    }
    if (common == static_cast<int64_t>(it->tokens.size())) entries_.erase(it);
    it = next;
  }
  entries_.push_front({std::move(tokens), std::move(cache)});
  if (entries_.size() > kMaxEntries) entries_.pop_back();
}

PrefixStore::Match PrefixStore::Find(const std::vector<int32_t>& prompt) {
  Match match;
  auto best = entries_.end();
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    const int64_t common = CommonPrefix(it->tokens, prompt);
    if (common <= match.tokens) continue;
    match = {it->cache.get(), common};
    best = it;
  }
  if (best != entries_.end()) entries_.splice(entries_.begin(), entries_, best);
  return match;
}

bool PrefixStore::EvictOldest() {
  if (entries_.empty()) return false;
  entries_.pop_back();
  return true;
}

}  // namespace shiftadd
