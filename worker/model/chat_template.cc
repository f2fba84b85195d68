#include "worker/model/chat_template.h"

#include <utility>

namespace shiftadd {

using jinja::Value;

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(absl::string_view jinja) {
  absl::StatusOr<std::shared_ptr<const jinja::Template>> program = jinja::Template::Parse(jinja);
  if (!program.ok()) return absl::FailedPreconditionError(program.status().message());
  return ChatTemplate(*std::move(program));
}

absl::StatusOr<std::string> ChatTemplate::Render(const std::vector<ChatMessage>& messages,
                                                 bool add_generation_prompt,
                                                 const std::map<std::string, std::string>& special,
                                                 absl::Time now) const {
  jinja::List list;
  for (const ChatMessage& message : messages) {
    jinja::Dict dict;
    dict.Set("role", Value::MakeString(message.role));
    dict.Set("content", Value::MakeString(message.content));
    list.push_back(Value::MakeDict(std::move(dict)));
  }
  jinja::Dict variables;
  variables.Set("messages", Value::MakeList(std::move(list)));
  variables.Set("tools", Value::MakeNone());
  variables.Set("documents", Value::MakeNone());
  variables.Set("add_generation_prompt", Value::MakeBool(add_generation_prompt));
  for (const auto& [name, text] : special) variables.Set(name, Value::MakeString(text));
  return program_->Render(variables, now);
}

}  // namespace shiftadd
