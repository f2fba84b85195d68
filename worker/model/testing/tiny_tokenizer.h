// The tokenizer of the tiny LLaMA.
#ifndef SHIFTADD_WORKER_MODEL_TESTING_TINY_TOKENIZER_H_
#define SHIFTADD_WORKER_MODEL_TESTING_TINY_TOKENIZER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace shiftadd::testing {

struct TinyTokenizer {
  std::vector<std::string> tokens;  // by id
  std::vector<std::pair<std::string, std::string>> merges;
  std::string chat_template;  // plain ChatML
};

// At most `vocab` tokens; the merges run out at some 1600.
TinyTokenizer MakeTinyTokenizer(int64_t vocab);

// Hugging Face's tokenizer.json; with `add_bos` a post-processor puts token 0 before a text.
std::string TinyTokenizerJson(const TinyTokenizer& tokenizer, bool add_bos);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_MODEL_TESTING_TINY_TOKENIZER_H_
