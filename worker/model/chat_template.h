// Chat templates. Sources carry Jinja programs; no program is run: the known ones are recognised
// and rendered from a table of forms.
#ifndef SHIFTADD_WORKER_MODEL_CHAT_TEMPLATE_H_
#define SHIFTADD_WORKER_MODEL_CHAT_TEMPLATE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/tokenizer.h"

namespace shiftadd {

// What a recognised template does: for each message open + role + close + content + end.
struct ChatForm {
  std::string name;
  bool bos_first = false;
  std::string open, close, end;
  bool trim = false;  // white space around the content goes
  std::string
      default_system;  // a system message put first if the first message is not one; empty: none
  std::string generation;  // opens the assistant's turn
};

// FAILED_PRECONDITION, listing the known forms, if the template is none of them.
absl::StatusOr<ChatForm> RecogniseChatTemplate(absl::string_view jinja);

std::string RenderChat(const ChatForm& form, const std::vector<ChatMessage>& messages,
                       bool add_generation_prompt, absl::string_view bos_text);

// A Jinja template with what does not matter taken out, so that two ways to write one program
// compare equal: white space in tags, quotes, "-" marks (with the white space they eat) and, as
// Hugging Face runs templates, a line's indentation before a block and the line break after it.
std::string NormaliseJinja(absl::string_view jinja);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_CHAT_TEMPLATE_H_
