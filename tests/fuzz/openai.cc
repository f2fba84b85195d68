// The body of an OpenAI request: every endpoint's parser.
#include "tests/fuzz/fuzz.h"
#include "worker/serve/openai_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto body =
      shiftadd::openai::ParseObject(std::string(reinterpret_cast<const char*>(data), size));
  if (!body.ok()) return 0;
  constexpr int64_t kVocab = 1000;
  const auto completion = shiftadd::openai::ParseCompletion(*body, kVocab);
  if (completion.ok()) {
    for (const auto& prompt : completion->prompts) {
      for (const int32_t id : prompt.ids) {
        shiftadd::fuzz::Require(id >= 0 && id < kVocab, "ids are in the vocabulary");
      }
    }
  }
  shiftadd::openai::ParseChat(*body, kVocab).status().IgnoreError();
  shiftadd::openai::ParseTemplateVariables(*body).status().IgnoreError();
  return 0;
}
