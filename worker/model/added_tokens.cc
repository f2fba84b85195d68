#include "worker/model/added_tokens.h"

#include <algorithm>

#include "absl/strings/match.h"

namespace shiftadd {

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
    if (i > done) on_text(text.substr(done, i - done));
    on_token(found->id);
    i += found->content.size();
    done = i;
  }
  if (done < text.size()) on_text(text.substr(done));
}

}  // namespace shiftadd
