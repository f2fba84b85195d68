// What the front ends know about the package that is served.
#ifndef SHIFTADD_WORKER_SERVE_SERVED_MODEL_H_
#define SHIFTADD_WORKER_SERVE_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/tokenizer.h"
#include "worker/serve/packed_model.h"

namespace shiftadd {

// Special tokens as text, empty if the model has none.
struct TokenizerInfo {
  std::string eos, bos, pad, chat_template;
};

// From the canonical tokenizer.json: its "shiftadd" object, ids resolved through `tokenizer` where
// it names none.
TokenizerInfo ReadTokenizerInfo(const std::string& tokenizer_json, const Tokenizer& tokenizer,
                                const ArchitectureSpec& spec);

struct ServedModel {
  std::string name;     // name:tag
  std::string digest;   // of the manifest
  int64_t created = 0;  // Unix seconds
  int64_t context = 0;
  const PackedModel* model = nullptr;
  const Tokenizer* tokenizer = nullptr;
  TokenizerInfo info;
  int64_t longest_token = 1;  // bytes

  // Encodes a prompt. OUT_OF_RANGE at once for a text that is too long whatever its tokens are.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool add_special) const;
};

// True if `asked` names the model `reference` (name:tag or name@digest): the same, or the name
// alone.
bool IsNameOf(absl::string_view asked, absl::string_view reference);

// The length in bytes of the longest token.
int64_t LongestToken(const Tokenizer& tokenizer);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SERVED_MODEL_H_
