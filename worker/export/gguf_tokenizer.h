// A tokenizer.json as a GGUF file's tokenizer.ggml.* pairs.
#ifndef SHIFTADD_WORKER_EXPORT_GGUF_TOKENIZER_H_
#define SHIFTADD_WORKER_EXPORT_GGUF_TOKENIZER_H_

#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "worker/export/gguf_header.h"
#include "worker/model/architecture_spec.h"

namespace shiftadd {

// Byte-level BPE becomes "gpt2", BPE with byte fallback (SentencePiece's) becomes "llama".
// `tokenizer` may have "shiftadd" {chat_template}. UNIMPLEMENTED: GGUF has no word for how it cuts
// text.
absl::Status AddGgufTokenizer(const nlohmann::json& tokenizer, const ArchitectureSpec& spec,
                              GgufHeader* header);

// UNIMPLEMENTED, with a text that shows it, unless both give the same tokens for all texts tried.
absl::Status CheckSameTokens(const std::string& tokenizer, const std::string& read_back);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_EXPORT_GGUF_TOKENIZER_H_
