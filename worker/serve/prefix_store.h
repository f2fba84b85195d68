// Caches of sequences that have ended, kept for prompts that begin alike.
#ifndef SHIFTADD_WORKER_SERVE_PREFIX_STORE_H_
#define SHIFTADD_WORKER_SERVE_PREFIX_STORE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "worker/serve/packed_model.h"

namespace shiftadd {

// How many tokens both begin with.
int64_t CommonPrefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b);

// Not thread-safe. Bounded by whoever adds: caches share pages, and EvictOldest frees those that
// nobody else holds.
class PrefixStore {
 public:
  struct Match {
    const KvCache* cache = nullptr;  // valid until the next Add, EvictOldest or Clear
    int64_t tokens = 0;              // that it begins with, as the prompt does
  };

  // Keeps the whole pages of `cache`, which holds the first tokens of `tokens`. An entry that says
  // no more than another one is not kept.
  void Add(std::vector<int32_t> tokens, std::unique_ptr<KvCache> cache);
  // The entry that has most in common with `prompt`; it counts as used now.
  Match Find(const std::vector<int32_t>& prompt);
  // Drops the entry that was not used for the longest time; false if there is none.
  bool EvictOldest();
  void Clear() { entries_.clear(); }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::vector<int32_t> tokens;
    std::unique_ptr<KvCache> cache;
  };
  std::list<Entry> entries_;  // used last first
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_PREFIX_STORE_H_
