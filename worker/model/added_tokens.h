// Finds tokens that are written out in a text: "<|im_start|>".
#ifndef SHIFTADD_WORKER_MODEL_ADDED_TOKENS_H_
#define SHIFTADD_WORKER_MODEL_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;              // looked for after normalization
  bool lstrip = false, rstrip = false;  // takes the white space before it, behind it
};

// Filled by one thread, then immutable and thread-safe.
class AddedTokenMatcher {
 public:
  void Add(const AddedToken& token);

  // Cuts `text` at tokens, leftmost and then longest; special ones only if `with_special`. Calls
  // on_text for what lies between (never empty) and on_token for each token, in order.
  void Scan(absl::string_view text, bool with_special,
            const std::function<void(absl::string_view)>& on_text,
            const std::function<void(int32_t)>& on_token) const;

 private:
  // The longest that starts at `at`; null if none does.
  const AddedToken* LongestAt(absl::string_view text, size_t at, bool with_special) const;

  // A trie: some models add thousands that begin alike ("<unused…"). Node 0 is none.
  std::array<int32_t, 256> first_ = {};               // by first byte
  absl::flat_hash_map<uint64_t, int32_t> next_;       // by node and byte
  std::vector<std::vector<AddedToken>> ends_ = {{}};  // by node: those that end there
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_ADDED_TOKENS_H_
