// Template text to tokens.
#ifndef SHIFTADD_WORKER_MODEL_JINJA_LEXER_H_
#define SHIFTADD_WORKER_MODEL_JINJA_LEXER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shiftadd::jinja {

struct Token {
  enum class Kind {
    kText,         // outside of tags
    kOutputBegin,  // {{
    kOutputEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kString,  // text: unescaped
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  } kind;
  std::string text;
  int line;
};

// White space is taken as transformers has Jinja take it: trim_blocks, lstrip_blocks, "-" and "+"
// marks; one line break at the end goes. Comments are dropped. INVALID_ARGUMENT names the line.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

}  // namespace shiftadd::jinja

#endif  // SHIFTADD_WORKER_MODEL_JINJA_LEXER_H_
