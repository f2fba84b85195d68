// The merges that may be done in a word, in the order in which they are.
#ifndef SHIFTADD_WORKER_MODEL_MERGE_QUEUE_H_
#define SHIFTADD_WORKER_MODEL_MERGE_QUEUE_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <queue>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace shiftadd {

// A merge that may be done: the lowest rank first, then the leftmost. Stale once the pair has
// changed.
struct MergeCandidate {
  uint32_t rank;
  int32_t position;
  int32_t token;  // what comes of it, the same for all of a rank
  bool operator>(const MergeCandidate& other) const {
    return std::tie(rank, position) > std::tie(other.rank, other.position);
  }
};

// For short words.
class MergeHeap {
 public:
  bool empty() const { return heap_.empty(); }
  void Push(const MergeCandidate& candidate) { heap_.push(candidate); }
  MergeCandidate Pop() {
    const MergeCandidate top = heap_.top();
    heap_.pop();
    return top;
  }
  int32_t soon() const { return 0; }

 private:
  std::priority_queue<MergeCandidate, std::vector<MergeCandidate>, std::greater<>> heap_;
};

// The same order for words that are longer than caches: where a heap reads all over its memory at
// each step, this goes through a list for each rank from left to right.
class MergeLists {
 public:
  bool empty() const { return ranks_.empty(); }

  void Push(const MergeCandidate& candidate) {
    const auto [it, added] = lists_.try_emplace(candidate.rank);
    if (added) ranks_.push(candidate.rank);
    List& list = it->second;
    list.token = candidate.token;
    if (list.begun) {
      list.late.push(candidate.position);
    } else {
      list.positions.push_back(candidate.position);
    }
  }

  MergeCandidate Pop() {
    const auto it = lists_.find(ranks_.top());
    List& list = it->second;
    if (!list.begun) std::sort(list.positions.begin(), list.positions.end());
    list.begun = true;
    MergeCandidate candidate{it->first, 0, list.token};
    if (list.LateIsNext()) {
      candidate.position = list.late.top();
      list.late.pop();
    } else {
      candidate.position = list.positions[list.next++];
      if (list.next + kAhead < list.positions.size()) soon_ = list.positions[list.next + kAhead];
    }
    if (list.next == list.positions.size() && list.late.empty()) {
      lists_.erase(it);
      ranks_.pop();
    }
    return candidate;
  }
  // A position that comes up soon: its symbol may be fetched meanwhile.
  int32_t soon() const { return soon_; }

 private:
  static constexpr size_t kAhead = 12;

  template <typename T>
  using LowestFirst = std::priority_queue<T, std::vector<T>, std::greater<>>;

  struct List {
    int32_t token = 0;
    bool begun = false;
    size_t next = 0;
    std::vector<int32_t> positions;  // sorted once begun
    LowestFirst<int32_t> late;  // came after that, which a well-made list of merges does not do

    bool LateIsNext() const {
      return !late.empty() && (next == positions.size() || late.top() < positions[next]);
    }
  };

  absl::flat_hash_map<uint32_t, List> lists_;  // by rank; none is empty
  LowestFirst<uint32_t> ranks_;                // of lists_
  int32_t soon_ = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_MERGE_QUEUE_H_
