// A tokenizer.json, and the texts that it then encodes.
#include "worker/model/tokenizer.h"

#include "absl/strings/string_view.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = shiftadd::Tokenizer::FromJson(text);
  if (!tokenizer.ok()) return 0;
  // The end of the input is a text of its own.
  for (const absl::string_view t : {absl::string_view("Hello, wörld! 123\n\t  x"),
                                    text.substr(text.size() - text.size() / 8)}) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(t.substr(0, 200), true, true);
    (*tokenizer)->Decode(ids, false);
    (*tokenizer)->Decode(ids, true);
  }
  (*tokenizer)->RenderChat({{"user", "hello"}}, true).status().IgnoreError();
  return 0;
}
