#include "worker/model/chat_template.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace shiftadd {
namespace {

// Stands for the text of a default system message in a known template.
constexpr char kSystem[] = "@SYSTEM@";

struct KnownTemplate {
  const char* jinja;
  ChatForm form;  // default_system is taken from where kSystem stands
};

ChatForm ChatMl() {
  return {"ChatML", false, "<|im_start|>",           "\n", "<|im_end|>\n",
          false,    "",    "<|im_start|>assistant\n"};
}

ChatForm Llama3() {
  return {"LLaMA-3",
          true,
          "<|start_header_id|>",
          "<|end_header_id|>\n\n",
          "<|eot_id|>",
          true,
          "",
          "<|start_header_id|>assistant<|end_header_id|>\n\n"};
}

const std::vector<KnownTemplate>& Known() {
  static const auto* const known = new std::vector<KnownTemplate>{
      // ChatML with a default system message: SmolLM2, Qwen1.5.
      {"{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
       "{{ '<|im_start|>system\n@SYSTEM@<|im_end|>\n' }}{% endif %}"
       "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
       "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
       ChatMl()},
      {"{% for message in messages %}"
       "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
       "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
       ChatMl()},
      {"{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
       "{% endif %}{% for message in messages %}"
       "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
       "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
       ChatMl()},
      {"{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
       "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | "
       "trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
       "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
       "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
       Llama3()},
  };
  return *known;
}

// Appends the inside of a tag without white space; strings keep theirs, in single quotes.
void AppendTag(absl::string_view inside, std::string* out) {
  char quote = 0;
  for (size_t i = 0; i < inside.size(); ++i) {
    const char c = inside[i];
    if (quote != 0) {
      if (c == '\\' && i + 1 < inside.size()) {
        ++i;
        if (inside[i] == 'n') {
          out->push_back('\n');
        } else {
          out->append({c, inside[i]});
        }
      } else {
        out->push_back(c == quote ? '\'' : c);
        if (c == quote) quote = 0;
      }
    } else if (c == '\'' || c == '"') {
      quote = c;
      out->push_back('\'');
    } else if (!absl::ascii_isspace(static_cast<unsigned char>(c))) {
      out->push_back(c);
    }
  }
}

// The end of the tag that starts at `at`: the position of its "}}" or "%}", outside of strings.
size_t TagEnd(absl::string_view jinja, size_t at, absl::string_view closing) {
  char quote = 0;
  for (size_t i = at; i + 1 < jinja.size(); ++i) {
    const char c = jinja[i];
    if (quote != 0) {
      if (c == '\\') ++i;
      if (c == quote) quote = 0;
    } else if (c == '\'' || c == '"') {
      quote = c;
    } else if (jinja.substr(i, 2) == closing) {
      return i;
    }
  }
  return absl::string_view::npos;
}

// True, with the text at kSystem, if `text` is `known`.
bool Matches(const std::string& known, const std::string& text, std::string* system) {
  const size_t hole = known.find(kSystem);
  if (hole == std::string::npos) return known == text;
  const std::string before = known.substr(0, hole);
  const std::string after = known.substr(hole + sizeof(kSystem) - 1);
  if (text.size() < before.size() + after.size() || !absl::StartsWith(text, before) ||
      !absl::EndsWith(text, after)) {
    return false;
  }
  *system = text.substr(hole, text.size() - before.size() - after.size());
  return system->find_first_of("'\\<{") == std::string::npos;
}

}  // namespace

std::string NormaliseJinja(absl::string_view jinja) {
  std::string out;
  size_t i = 0;
  while (i < jinja.size()) {
    const absl::string_view opening = jinja.substr(i, 2);
    if (opening != "{{" && opening != "{%") {
      out.push_back(jinja[i++]);
      continue;
    }
    const bool block = opening == "{%";
    const absl::string_view closing = block ? "%}" : "}}";
    const size_t end = TagEnd(jinja, i + 2, closing);
    if (end == absl::string_view::npos) break;  // no tag: compares unequal to everything known
    absl::string_view inside = jinja.substr(i + 2, end - i - 2);
    if (absl::ConsumePrefix(&inside, "-")) {
      absl::StripTrailingAsciiWhitespace(&out);
    } else if (block) {
      const size_t last = out.find_last_not_of(" \t");
      if (last == std::string::npos) {
        out.clear();
      } else if (out[last] == '\n') {
        out.resize(last + 1);
      }
    }
    const bool eats = absl::ConsumeSuffix(&inside, "-");
    absl::StrAppend(&out, opening);
    AppendTag(inside, &out);
    absl::StrAppend(&out, closing);
    i = end + 2;
    if (eats) {
      while (i < jinja.size() && absl::ascii_isspace(static_cast<unsigned char>(jinja[i]))) ++i;
    } else if (block && i < jinja.size() && jinja[i] == '\n') {
      ++i;
    }
  }
  absl::StrAppend(&out, jinja.substr(i));
  if (absl::EndsWith(out, "\n")) out.pop_back();  // Jinja drops one line break at the end
  return out;
}

absl::StatusOr<ChatForm> RecogniseChatTemplate(absl::string_view jinja) {
  const std::string text = NormaliseJinja(jinja);
  for (const KnownTemplate& known : Known()) {
    ChatForm form = known.form;
    if (Matches(NormaliseJinja(known.jinja), text, &form.default_system)) return form;
  }
  return absl::FailedPreconditionError(
      "the model's chat template is not one that is known; known are: ChatML (with or without a "
      "default system message), LLaMA-3");
}

std::string RenderChat(const ChatForm& form, const std::vector<ChatMessage>& messages,
                       bool add_generation_prompt, absl::string_view bos_text) {
  std::string out;
  const auto turn = [&](absl::string_view role, absl::string_view content) {
    if (form.trim) content = absl::StripAsciiWhitespace(content);
    absl::StrAppend(&out, form.open, role, form.close, content, form.end);
  };
  if (!messages.empty() && form.bos_first) absl::StrAppend(&out, bos_text);
  if (!messages.empty() && !form.default_system.empty() && messages[0].role != "system") {
    turn("system", form.default_system);
  }
  for (const ChatMessage& message : messages) turn(message.role, message.content);
  if (add_generation_prompt) absl::StrAppend(&out, form.generation);
  return out;
}

}  // namespace shiftadd
