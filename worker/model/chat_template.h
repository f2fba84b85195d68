// Chat templates: the programs that sources carry, run over messages.
#ifndef SHIFTADD_WORKER_MODEL_CHAT_TEMPLATE_H_
#define SHIFTADD_WORKER_MODEL_CHAT_TEMPLATE_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/model/jinja/template.h"
#include "worker/model/tokenizer.h"

namespace shiftadd {

// Immutable, thread-safe.
class ChatTemplate {
 public:
  // FAILED_PRECONDITION names the line and what is wrong or not supported there.
  static absl::StatusOr<ChatTemplate> Parse(absl::string_view jinja);

  // `special`: special tokens by the names that programs know them by ("bos_token"). The program
  // is given no tools and no documents. `variables`: an object of more variables, which
  // override none of these; null: none. INVALID_ARGUMENT: it fails on these messages, or refuses
  // them in words of its own.
  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                     bool add_generation_prompt,
                                     const std::map<std::string, std::string>& special,
                                     absl::Time now,
                                     const nlohmann::ordered_json& variables = nullptr) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const jinja::Template> program)
      : program_(std::move(program)) {}
  std::shared_ptr<const jinja::Template> program_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_CHAT_TEMPLATE_H_
