#include "worker/model/unigram.h"

#include <algorithm>
#include <utility>

#include "worker/model/utf8.h"

namespace shiftadd {
namespace {

constexpr double kUnknownPenalty = 10.0;

// The best way to some place of the word: where its last token starts.
struct Node {
  int64_t start = -1;  // -1: not reached
  double score = 0;
  bool unknown = false;
};

}  // namespace

void Unigram::AddToken(std::string text, int32_t token, double score) {
  lowest_ = tokens_.empty() ? score : std::min(lowest_, score);
  longest_ = std::max(longest_, text.size());
  tokens_.emplace(std::move(text), Token{token, score});
}

void Unigram::AddPiece(absl::string_view piece, std::vector<int32_t>* out) const {
  if (const auto it = tokens_.find(piece); it != tokens_.end()) {
    out->push_back(it->second.id);
    return;
  }
  bool bytes = true;
  for (const char c : piece) bytes = bytes && fallback_[static_cast<uint8_t>(c)] >= 0;
  if (bytes) {
    for (const char c : piece) out->push_back(fallback_[static_cast<uint8_t>(c)]);
  } else if (unknown_ >= 0) {
    out->push_back(unknown_);
  }
}

void Unigram::Encode(absl::string_view word, std::vector<int32_t>* out) const {
  const size_t size = word.size();
  std::vector<Node> ends(size + 1);
  const auto offer = [&](size_t start, size_t end, double score, bool unknown) {
    Node& node = ends[end];
    if (node.start < 0 || score > node.score) {
      node = {static_cast<int64_t>(start), score, unknown};
    }
  };
  bool incomplete = false;
  for (size_t at = 0; at < size;) {
    const size_t length = std::max<size_t>(1, Utf8CharacterAt(word, at, &incomplete));
    const double here = ends[at].score;
    bool single = false;
    size_t end = at;
    while (end < size && end - at < longest_) {
      end += std::max<size_t>(1, Utf8CharacterAt(word, end, &incomplete));
      const auto it = tokens_.find(word.substr(at, end - at));
      if (it == tokens_.end()) continue;
      offer(at, end, here + it->second.score, it->second.id == unknown_);
      single = single || end - at == length;
    }
    if (!single) offer(at, at + length, here + lowest_ - kUnknownPenalty, true);
    at += length;
  }
  std::vector<absl::string_view> pieces;
  for (size_t end = size; end > 0;) {
    const size_t start = static_cast<size_t>(ends[end].start);
    size_t from = start;
    while (ends[end].unknown && from > 0 && ends[from].unknown) {
      from = static_cast<size_t>(ends[from].start);
    }
    pieces.push_back(word.substr(from, end - from));
    end = from;
  }
  for (auto it = pieces.rbegin(); it != pieces.rend(); ++it) AddPiece(*it, out);
}

}  // namespace shiftadd
