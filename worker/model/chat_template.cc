#include "worker/model/chat_template.h"

#include <utility>

#include "absl/strings/str_cat.h"

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
                                                 absl::Time now,
                                                 const nlohmann::ordered_json& variables) const {
  jinja::List list;
  for (const ChatMessage& message : messages) {
    jinja::Dict dict;
    dict.Set("role", Value::MakeString(message.role));
    dict.Set("content", Value::MakeString(message.content));
    list.push_back(Value::MakeDict(std::move(dict)));
  }
  jinja::Dict all;
  if (variables.is_object()) {
    for (const auto& [name, value] : variables.items()) all.Set(name, Value::FromJson(value));
  }
  all.Set("messages", Value::MakeList(std::move(list)));
  all.Set("tools", Value::MakeNone());
  all.Set("documents", Value::MakeNone());
  all.Set("add_generation_prompt", Value::MakeBool(add_generation_prompt));
  for (const auto& [name, text] : special) all.Set(name, Value::MakeString(text));
  absl::StatusOr<std::string> text = program_->Render(all, now);
  // The program's limits: it is these messages that go beyond.
  if (!absl::IsResourceExhausted(text.status())) return text;
  return absl::InvalidArgumentError(
      absl::StrCat(text.status().message(), " (with ", messages.size(), " messages)"));
}

}  // namespace shiftadd
