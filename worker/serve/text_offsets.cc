#include "worker/serve/text_offsets.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "worker/serve/text_stream.h"

namespace shiftadd {
namespace {

// How far a token is sought behind the last one: over spaces that were dropped, or a character that
// was written another way.
constexpr size_t kLongestGap = 64;

}  // namespace

int64_t TextOffsets::Next(int32_t token) {
  if (prompt_tokens_ <= 0) return OfGenerated(token);
  --prompt_tokens_;
  return OfPrompt(token);
}

int64_t TextOffsets::OfPrompt(int32_t token) {
  const std::string bytes = tokenizer_->Decode({token}, /*skip_special=*/false);
  const absl::string_view rest = absl::string_view(text_).substr(end_);
  // As it stands, or without the space before a text.
  for (const absl::string_view sought : {absl::string_view(bytes), absl::StripPrefix(bytes, " ")}) {
    if (!absl::StartsWith(rest, sought)) continue;
    const size_t begin = end_;
    end_ += sought.size();
    return CharacterAt(begin);
  }
  if (!tokenizer_->IsSpecial(token)) {
    const size_t found = rest.substr(0, kLongestGap + bytes.size()).find(bytes);
    if (found != absl::string_view::npos) {
      const size_t begin = end_ + found;
      end_ = begin + bytes.size();
      return CharacterAt(begin);
    }
  }
  return CharacterAt(end_);
}

int64_t TextOffsets::OfGenerated(int32_t token) {
  if (!std::exchange(generating_, true)) {
    // A character that the prompt leaves unfinished is not finished by what follows.
    for (; passed_ < text_.size(); ++characters_) {
      passed_ += FirstCharacter(absl::string_view(text_).substr(passed_));
    }
    text_.clear();
    passed_ = 0;
  }
  const size_t begin = text_.size();
  text_ += tokenizer_->Decode({token}, /*skip_special=*/true);
  const int64_t offset = CharacterAt(begin);
  text_.erase(0, passed_);
  passed_ = 0;
  return offset;
}

int64_t TextOffsets::CharacterAt(size_t at) {
  const absl::string_view text = text_;
  // What more bytes may make another character of is not passed yet.
  const size_t end = std::min(at, passed_ + CompleteUtf8Prefix(text.substr(passed_)));
  while (passed_ < end) {
    const size_t next = passed_ + FirstCharacter(text.substr(passed_));
    if (next > at) break;
    passed_ = next;
    ++characters_;
  }
  return characters_;
}

}  // namespace shiftadd
