// The tokenizer in a GGUF file's metadata, as a Hugging Face tokenizer.json.
#ifndef SHIFTADD_WORKER_MODEL_GGUF_TOKENIZER_H_
#define SHIFTADD_WORKER_MODEL_GGUF_TOKENIZER_H_

#include <string>

#include "absl/status/statusor.h"
#include "worker/model/architecture_spec.h"
#include "worker/model/gguf_metadata.h"

namespace shiftadd {

// Reads tokenizer.ggml.*; sets spec->add_bos. Byte-level BPE ("gpt2") and
// SentencePiece's BPE ("llama") and Unigram ("t5"): another model or pre-tokenizer is UNIMPLEMENTED
// and lists what is supported. The document ends with "shiftadd" {chat_template, bos, eos}.
absl::StatusOr<std::string> TokenizerJsonFromGguf(const GgufMetadata& meta, ArchitectureSpec* spec);

// The other way: the name in tokenizer.ggml.pre that stands for how a tokenizer.json cuts text.
// UNIMPLEMENTED if none does, or if its model is no BPE.
absl::StatusOr<std::string> GgufPreTokenizerName(const nlohmann::json& tokenizer);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_GGUF_TOKENIZER_H_
