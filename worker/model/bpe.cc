#include "worker/model/bpe.h"

#include <algorithm>

#include "worker/model/merge_queue.h"
#include "worker/model/utf8.h"

namespace shiftadd {
namespace {

uint64_t PairKey(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

// A symbol of the word being merged, in a doubly linked list; token -1 once merged into its left
// neighbour.
struct Symbol {
  int32_t token;
  int32_t previous;
  int32_t next;
};

// From here on a heap of a word's merges no longer fits the caches.
constexpr size_t kLongWord = 4096;

}  // namespace

void Bpe::AddToken(std::string bytes, int32_t token) {
  if (bytes.size() == 1) byte_tokens_[static_cast<uint8_t>(bytes[0])] = token;
  tokens_.emplace(std::move(bytes), token);
}

void Bpe::AddMerge(int32_t left, int32_t right, int32_t merged) {
  merges_.insert_or_assign(PairKey(left, right), Merge{next_rank_++, merged});
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

bool Bpe::WholeWord(absl::string_view word, std::vector<int32_t>* out) const {
  if (!ignore_merges_) return false;
  const auto it = tokens_.find(word);
  if (it == tokens_.end()) return false;
  out->push_back(it->second);
  return true;
}

void Bpe::Finish(const std::vector<int32_t>& symbols, std::vector<int32_t>* out) const {
  if (symbols.size() < 2) {
    out->insert(out->end(), symbols.begin(), symbols.end());
  } else if (symbols.size() < kLongWord) {
    MergeSymbols<MergeHeap>(symbols, out);
  } else {
    MergeSymbols<MergeLists>(symbols, out);
  }
}

void Bpe::EncodeText(absl::string_view word, std::vector<int32_t>* out) const {
  if (WholeWord(word, out)) return;
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  bool incomplete = false, after_unknown = false;
  for (size_t i = 0; i < word.size();) {
    const size_t length = std::max<size_t>(1, Utf8CharacterAt(word, i, &incomplete));
    const absl::string_view character = word.substr(i, length);
    i += length;
    const auto it = tokens_.find(character);
    const bool known = it != tokens_.end();
    bool bytes = !known;
    for (const char c : character) bytes = bytes && fallback_[static_cast<uint8_t>(c)] >= 0;
    if (known) {
      symbols.push_back(it->second);
    } else if (bytes) {
      for (const char c : character) symbols.push_back(fallback_[static_cast<uint8_t>(c)]);
    } else if (unknown_ >= 0 && !(fuse_unknown_ && after_unknown)) {
      symbols.push_back(unknown_);
    }
    after_unknown = !known && !bytes;
  }
  Finish(symbols, out);
}

void Bpe::Encode(absl::string_view word, std::vector<int32_t>* out) const {
  if (WholeWord(word, out)) return;
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  for (char c : word) {
    const int32_t token = byte_tokens_[static_cast<uint8_t>(c)];
    if (token >= 0) {
      symbols.push_back(token);
    } else if (unknown_ >= 0) {
      symbols.push_back(unknown_);
    }
  }
  Finish(symbols, out);
}

template <typename Queue>
void Bpe::MergeSymbols(const std::vector<int32_t>& tokens, std::vector<int32_t>* out) const {
  const int32_t count = static_cast<int32_t>(tokens.size());
  std::vector<Symbol> symbols(tokens.size());
  Queue queue;
  const auto offer = [&](int32_t left) {
    const int32_t right = symbols[left].next;
    if (right < 0) return;
    const Merge* merge = FindMerge(symbols[left].token, symbols[right].token);
    if (merge != nullptr) queue.Push({merge->rank, left, merge->token});
  };
  for (int32_t i = 0; i < count; ++i) symbols[i] = {tokens[i], i - 1, i + 1 < count ? i + 1 : -1};
  for (int32_t i = 0; i + 1 < count; ++i) offer(i);
  while (!queue.empty()) {
    const MergeCandidate best = queue.Pop();
    __builtin_prefetch(&symbols[queue.soon()]);
    Symbol& left = symbols[best.position];
    if (left.token < 0 || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    const Merge* merge = FindMerge(left.token, right.token);
    if (merge == nullptr || merge->token != best.token) continue;
    left.token = merge->token;
    left.next = right.next;
    right.token = -1;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    if (left.previous >= 0) offer(left.previous);
    offer(best.position);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) out->push_back(symbols[i].token);
}

}  // namespace shiftadd
