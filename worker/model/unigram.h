// The unigram language model of SentencePiece: the likeliest way to cut a word into tokens.
#ifndef SHIFTADD_WORKER_MODEL_UNIGRAM_H_
#define SHIFTADD_WORKER_MODEL_UNIGRAM_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

// Kudo 2018. Filled by one thread, then immutable and thread-safe.
class Unigram {
 public:
  Unigram() { fallback_.fill(-1); }
  // `score`: the logarithm of the token's probability.
  void AddToken(std::string text, int32_t token, double score);
  // What a character without a token becomes, at 10 below the lowest score; those in a row are one.
  // -1: it is dropped.
  void SetUnknown(int32_t token) { unknown_ = token; }
  // In its place, a token for each of its bytes, if all have one.
  void SetByteFallback(const std::array<int32_t, 256>& tokens) { fallback_ = tokens; }

  // Appends the word's tokens; `word` is UTF-8, bytes that belong to no character are characters.
  // Of equally likely ways the one found first. Time: length times the longest token.
  void Encode(absl::string_view word, std::vector<int32_t>* out) const;

 private:
  struct Token {
    int32_t id;
    double score;
  };
  void AddPiece(absl::string_view piece, std::vector<int32_t>* out) const;

  absl::flat_hash_map<std::string, Token> tokens_;
  size_t longest_ = 0;
  double lowest_ = 0;
  int32_t unknown_ = -1;
  std::array<int32_t, 256> fallback_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_UNIGRAM_H_
