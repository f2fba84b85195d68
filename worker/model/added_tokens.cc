#include "worker/model/added_tokens.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "worker/model/utf8.h"

namespace shiftadd {
namespace {

// Bytes of a text that are searched at once; more if a token is longer.
constexpr size_t kPart = size_t{1} << 16;

// The size of `text` without the white space at its end.
size_t StrippedEnd(absl::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t last = end - 1;
    while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xc0) == 0x80) --last;
    if (WhiteSpaceAt(text, last) == 0) break;
    end = last;
  }
  return end;
}

uint64_t Edge(int32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) Add(static_cast<int32_t>(i));
  Link();
}

void AddedTokenMatcher::Add(int32_t index) {
  const AddedToken& token = tokens_[static_cast<size_t>(index)];
  if (token.content.empty()) return;
  longest_ = std::max(longest_, token.content.size());
  int32_t node = 0;
  for (auto c = token.content.rbegin(); c != token.content.rend(); ++c) {
    int32_t& next = node == 0 ? first_[static_cast<uint8_t>(*c)] : next_[Edge(node, *c)];
    if (next == 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({node, *c, nodes_[static_cast<size_t>(node)].depth + 1});
    }
    node = next;
  }
  // Of equal ones the first.
  Node& last = nodes_[static_cast<size_t>(node)];
  if (last.longest < 0) last.longest = index;
  if (last.plain < 0 && !token.special) last.plain = index;
}

// Aho and Corasick's automaton: what a node falls back to is less deep and known before it.
void AddedTokenMatcher::Link() {
  std::vector<int32_t> order(nodes_.size() - 1);
  std::iota(order.begin(), order.end(), 1);
  std::stable_sort(order.begin(), order.end(), [this](int32_t a, int32_t b) {
    return nodes_[static_cast<size_t>(a)].depth < nodes_[static_cast<size_t>(b)].depth;
  });
  for (const int32_t i : order) {
    Node& node = nodes_[static_cast<size_t>(i)];
    if (node.parent == 0) continue;
    node.fallback = Step(nodes_[static_cast<size_t>(node.parent)].fallback, node.byte);
    const Node& fallback = nodes_[static_cast<size_t>(node.fallback)];
    if (node.longest < 0) node.longest = fallback.longest;
    if (node.plain < 0) node.plain = fallback.plain;
  }
}

int32_t AddedTokenMatcher::Step(int32_t node, char byte) const {
  while (node != 0) {
    const auto next = next_.find(Edge(node, byte));
    if (next != next_.end()) return next->second;
    node = nodes_[static_cast<size_t>(node)].fallback;
  }
  return first_[static_cast<uint8_t>(byte)];
}

// The longest token at every place of [begin, end) where one starts, the last place first. Read
// backwards, what has been read ends in all tokens that start at a place; tried forwards from each
// place, tokens that begin alike and are long would be read again and again.
void AddedTokenMatcher::Find(absl::string_view text, size_t begin, size_t end, bool with_special,
                             std::vector<Hit>* hits) const {
  int32_t node = 0;
  for (size_t at = std::min(text.size(), end + longest_ - 1); at-- > begin;) {
    node = Step(node, text[at]);
    const Node& found = nodes_[static_cast<size_t>(node)];
    const int32_t token = with_special ? found.longest : found.plain;
    if (token >= 0 && at < end) hits->push_back({at, &tokens_[static_cast<size_t>(token)]});
  }
}

void AddedTokenMatcher::Scan(absl::string_view text, bool with_special,
                             const std::function<void(absl::string_view)>& on_text,
                             const std::function<void(int32_t)>& on_token) const {
  // Part by part, so that what is found needs little memory.
  const size_t part = std::max(kPart, longest_);
  std::vector<Hit> hits;
  size_t done = 0;
  for (size_t begin = 0; longest_ > 0 && begin < text.size(); begin += part) {
    Find(text, begin, std::min(text.size(), begin + part), with_special, &hits);
    for (; !hits.empty(); hits.pop_back()) {
      const auto [at, found] = hits.back();
      if (at < done) continue;  // within the one before
      size_t end = at;
      if (found->lstrip) end = done + StrippedEnd(text.substr(done, at - done));
      if (end > done) on_text(text.substr(done, end - done));
      on_token(found->id);
      done = at + found->content.size();
      while (found->rstrip && done < text.size()) {
        const size_t space = WhiteSpaceAt(text, done);
        if (space == 0) break;
        done += space;
      }
    }
  }
  if (done < text.size()) on_text(text.substr(done));
}

}  // namespace shiftadd
