// A small random LLaMA on disk, for tests: the same bytes for the same options, in either source
// format.
#ifndef SHIFTADD_WORKER_MODEL_TESTING_TINY_LLAMA_H_
#define SHIFTADD_WORKER_MODEL_TESTING_TINY_LLAMA_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/architecture_spec.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd::testing {

struct TinyLlamaOptions {
  uint64_t seed = 1;
  int64_t hidden = 128;
  int64_t blocks = 2;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t head_dim = 0;  // 0: hidden / heads
  int64_t intermediate = 256;
  int64_t vocab = 320;  // at least 259: 3 special tokens, 256 bytes, then merges
  int64_t context = 512;
  bool tied = true;
  bool attention_bias = false;  // q, k, v, o
  bool mlp_bias = false;
  bool bos = true;                                // <|endoftext|> (0) is BOS and goes before a text
  RopeScaling rope_scaling = RopeScaling::kNone;  // factor 8; llama3: original context 64
  DType dtype = DType::kF32;                      // of matrices: F32, F16, BF16
  int shards = 1;                                 // Hugging Face only: above 1 writes an index
};

// Token ids: 0 <|endoftext|> (BOS, EOS), 1 <|im_start|>, 2 <|im_end|> (EOS), 3…258 the bytes, then
// merges.
inline constexpr int32_t kTinyEndOfText = 0, kTinyImStart = 1, kTinyImEnd = 2, kTinyFirstByte = 3;

ArchitectureSpec TinyLlamaSpec(const TinyLlamaOptions& options);

// Every tensor under its canonical name, as float32 after rounding to `options.dtype`.
std::map<std::string, std::vector<float>> TinyLlamaWeights(const TinyLlamaOptions& options);

// Creates the directory (and its parents): config.json, generation_config.json, model.safetensors
// (or shards and their index), tokenizer.json, tokenizer_config.json with a ChatML template.
absl::Status WriteTinyLlamaDirectory(const std::string& directory, const TinyLlamaOptions& options);

// The same model as one GGUF file.
absl::Status WriteTinyLlamaGguf(const std::string& path, const TinyLlamaOptions& options);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_MODEL_TESTING_TINY_LLAMA_H_
