#include "worker/model/added_tokens.h"

#include "worker/model/utf8.h"

namespace shiftadd {
namespace {

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

void AddedTokenMatcher::Add(const AddedToken& token) {
  if (token.content.empty()) return;
  int32_t node = 0;
  for (const char c : token.content) {
    int32_t& next = node == 0 ? first_[static_cast<uint8_t>(c)] : next_[Edge(node, c)];
    if (next == 0) {
      next = static_cast<int32_t>(ends_.size());
      ends_.emplace_back();
    }
    node = next;
  }
  ends_[static_cast<size_t>(node)].push_back(token);
}

const AddedToken* AddedTokenMatcher::LongestAt(absl::string_view text, size_t at,
                                               bool with_special) const {
  const AddedToken* longest = nullptr;
  for (int32_t node = first_[static_cast<uint8_t>(text[at])]; node != 0;) {
    for (const AddedToken& token : ends_[static_cast<size_t>(node)]) {
      if (token.special && !with_special) continue;
      longest = &token;
      break;
    }
    if (++at == text.size()) break;
    const auto next = next_.find(Edge(node, text[at]));
    node = next == next_.end() ? 0 : next->second;
  }
  return longest;
}

void AddedTokenMatcher::Scan(absl::string_view text, bool with_special,
                             const std::function<void(absl::string_view)>& on_text,
                             const std::function<void(int32_t)>& on_token) const {
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    const AddedToken* const found = LongestAt(text, i, with_special);
    if (found == nullptr) {
      ++i;
      continue;
    }
    size_t end = i;
    if (found->lstrip) end = done + StrippedEnd(text.substr(done, i - done));
    if (end > done) on_text(text.substr(done, end - done));
    on_token(found->id);
    i += found->content.size();
    while (found->rstrip && i < text.size()) {
      const size_t space = WhiteSpaceAt(text, i);
      if (space == 0) break;
      i += space;
    }
    done = i;
  }
  if (done < text.size()) on_text(text.substr(done));
}

}  // namespace shiftadd
