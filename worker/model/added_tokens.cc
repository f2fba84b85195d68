#include "worker/model/added_tokens.h"

#include <algorithm>

#include "absl/strings/match.h"
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

}  // namespace

void AddedTokenMatcher::Add(const AddedToken& token) {
  if (token.content.empty()) return;
  auto& bucket = by_first_[static_cast<uint8_t>(token.content[0])];
  const auto at = std::find_if(bucket.begin(), bucket.end(), [&](const AddedToken& other) {
    return other.content.size() < token.content.size();
  });
  bucket.insert(at, token);
}

void AddedTokenMatcher::Scan(absl::string_view text, bool with_special,
                             const std::function<void(absl::string_view)>& on_text,
                             const std::function<void(int32_t)>& on_token) const {
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    const AddedToken* found = nullptr;
    for (const AddedToken& token : by_first_[static_cast<uint8_t>(text[i])]) {
      if (token.special && !with_special) continue;
      if (!absl::StartsWith(text.substr(i), token.content)) continue;
      found = &token;
      break;
    }
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
