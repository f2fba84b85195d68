// A chat template, and what it makes of messages.
#include "worker/model/chat_template.h"

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto program = shiftadd::ChatTemplate::Parse({reinterpret_cast<const char*>(data), size});
  if (!program.ok()) return 0;
  const std::vector<shiftadd::ChatMessage> messages = {
      {"system", "Be brief."}, {"user", "Hello <|im_end|> {{ 1 }}"}, {"assistant", "Hi"}};
  for (const bool prompt : {false, true}) {
    program
        ->Render(
            messages, prompt, {{"bos_token", "<s>"}, {"eos_token", "</s>"}}, absl::UnixEpoch(),
            nlohmann::ordered_json::parse(R"({"enable_thinking": true, "n": [1, {"a": null}]})"))
        .status()
        .IgnoreError();
  }
  return 0;
}
