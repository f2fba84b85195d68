// Byte pair encoding of one word.
#ifndef SHIFTADD_WORKER_MODEL_BPE_H_
#define SHIFTADD_WORKER_MODEL_BPE_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

// Filled by one thread, then immutable and thread-safe.
class Bpe {
 public:
  Bpe() {
    byte_tokens_.fill(-1);
    fallback_.fill(-1);
  }

  // `token` stands for `bytes` (its text taken out of the byte-level alphabet).
  void AddToken(std::string bytes, int32_t token);
  // Earlier merges go first; the last of two equal pairs counts, as in Hugging Face's tokenizers.
  void AddMerge(int32_t left, int32_t right, int32_t merged);
  // A word that is a token becomes that token, whatever the merges say.
  void SetIgnoreMerges(bool ignore) { ignore_merges_ = ignore; }
  // What a byte without a token becomes; -1: it is dropped.
  void SetUnknown(int32_t token) { unknown_ = token; }

  // EncodeText: what a byte of a character that is no token becomes (-1: none; all or nothing).
  void SetByteFallback(const std::array<int32_t, 256>& tokens) { fallback_ = tokens; }
  // EncodeText: unknown characters in a row are one unknown token.
  void SetFuseUnknown(bool fuse) { fuse_unknown_ = fuse; }

  // Appends the word's tokens, merged from those of its bytes. Time n log n.
  void Encode(absl::string_view word, std::vector<int32_t>* out) const;
  // The same, but merged from those of its characters (SentencePiece's BPE). `word` is UTF-8; bytes
  // that belong to no character are characters.
  void EncodeText(absl::string_view word, std::vector<int32_t>* out) const;

 private:
  struct Merge {
    uint32_t rank;
    int32_t token;
  };
  bool WholeWord(absl::string_view word, std::vector<int32_t>* out) const;
  void Finish(const std::vector<int32_t>& symbols, std::vector<int32_t>* out) const;
  const Merge* FindMerge(int32_t left, int32_t right) const;
  template <typename Queue>
  void MergeSymbols(const std::vector<int32_t>& symbols, std::vector<int32_t>* out) const;

  std::array<int32_t, 256> byte_tokens_, fallback_;
  bool fuse_unknown_ = false;
  absl::flat_hash_map<std::string, int32_t> tokens_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
  uint32_t next_rank_ = 0;
  bool ignore_merges_ = false;
  int32_t unknown_ = -1;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_BPE_H_
