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
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens = {});

  // Cuts `text` at tokens, leftmost and then longest; special ones only if `with_special`. Calls
  // on_text for what lies between (never empty) and on_token for each token, in order. The time
  // grows with the text alone, whatever the tokens are.
  void Scan(absl::string_view text, bool with_special,
            const std::function<void(absl::string_view)>& on_text,
            const std::function<void(int32_t)>& on_token) const;

 private:
  // A token of `text` and where it starts.
  struct Hit {
    size_t at;
    const AddedToken* token;
  };
  // Of a trie of the tokens read backwards. Node 0 is its root.
  struct Node {
    int32_t parent = 0;
    char byte = 0;
    int32_t depth = 0;
    int32_t fallback = 0;              // the longest other node that its text ends in
    int32_t longest = -1, plain = -1;  // the longest token that its text ends in; no special one
  };
  void Add(int32_t index);
  void Link();
  int32_t Step(int32_t node, char byte) const;
  void Find(absl::string_view text, size_t begin, size_t end, bool with_special,
            std::vector<Hit>* hits) const;

  std::vector<AddedToken> tokens_;
  size_t longest_ = 0;  // bytes of a token
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<int32_t, 256> first_ = {};          // by first byte
  absl::flat_hash_map<uint64_t, int32_t> next_;  // by node and byte
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_ADDED_TOKENS_H_
