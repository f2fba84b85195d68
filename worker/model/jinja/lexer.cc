#include "worker/model/jinja/lexer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/base/status_macros.h"

namespace shiftadd::jinja {
namespace {

void AppendUtf8(uint32_t c, std::string* out) {
  const auto push = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    push(c);
  } else if (c < 0x800) {
    push(0xc0 | c >> 6), push(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    push(0xe0 | c >> 12), push(0x80 | (c >> 6 & 0x3f)), push(0x80 | (c & 0x3f));
  } else {
    push(0xf0 | c >> 18), push(0x80 | (c >> 12 & 0x3f));
    push(0x80 | (c >> 6 & 0x3f)), push(0x80 | (c & 0x3f));
  }
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      const size_t tag = NextTag();
      Text(tag);
      if (at_ >= source_.size()) break;
      SA_RETURN_IF_ERROR(Tag());
    }
    Push(Token::Kind::kEnd, "the end");
    return std::move(tokens_);
  }

 private:
  absl::Status Fault(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", line_, ": ", what));
  }
  absl::string_view Rest() const { return absl::string_view(source_).substr(at_); }
  void Push(Token::Kind kind, absl::string_view text) {
    tokens_.push_back({kind, std::string(text), line_});
  }
  void Move(size_t count) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + static_cast<int64_t>(at_),
                                    source_.begin() + static_cast<int64_t>(at_ + count), '\n'));
    at_ += count;
  }
  void SkipSpace() {
    while (at_ < source_.size() && absl::ascii_isspace(static_cast<unsigned char>(source_[at_]))) {
      Move(1);
    }
  }

  size_t NextTag() const {
    for (size_t i = at_; i + 1 < source_.size(); ++i) {
      if (source_[i] == '{' && absl::StrContains("{%#", source_.substr(i + 1, 1))) return i;
    }
    return source_.size();
  }

  // What stands before the tag at `tag`, without what the tag eats of it.
  void Text(size_t tag) {
    absl::string_view text = absl::string_view(source_).substr(at_, tag - at_);
    const bool starts_line = at_ == 0 || source_[at_ - 1] == '\n';
    if (tag < source_.size()) {
      const char mark = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
      if (mark == '-') {
        text = absl::StripTrailingAsciiWhitespace(text);
      } else if (mark != '+' && source_[tag + 1] != '{') {
        const size_t last = text.find_last_not_of(" \t");
        if (last == absl::string_view::npos ? starts_line : text[last] == '\n') {
          text = text.substr(0, last == absl::string_view::npos ? 0 : last + 1);
        }
      }
    }
    if (!text.empty()) Push(Token::Kind::kText, text);
    Move(tag - at_);
  }

  absl::Status Tag() {
    const char kind = source_[at_ + 1];
    if (kind == '#') return Comment();
    const bool output = kind == '{';
    Push(output ? Token::Kind::kOutputBegin : Token::Kind::kBlockBegin, output ? "{{" : "{%");
    Move(2);
    if (absl::StartsWith(Rest(), "-") || absl::StartsWith(Rest(), "+")) Move(1);
    const absl::string_view end = output ? "}}" : "%}";
    int depth = 0;  // of brackets: "}}" may end two dicts
    while (true) {
      SkipSpace();
      if (at_ >= source_.size()) return Fault(absl::StrCat("a tag has no end: expected ", end));
      const bool marked = Rest()[0] == '-' || Rest()[0] == '+';
      if (depth == 0 && absl::StartsWith(Rest().substr(marked ? 1 : 0), end)) {
        const char mark = marked ? Rest()[0] : ' ';
        Push(output ? Token::Kind::kOutputEnd : Token::Kind::kBlockEnd, end);
        Move(end.size() + (marked ? 1 : 0));
        AfterTag(mark, !output);
        return absl::OkStatus();
      }
      SA_RETURN_IF_ERROR(Inside(&depth));
    }
  }

  absl::Status Comment() {
    const size_t end = source_.find("#}", at_ + 2);
    if (end == std::string::npos) return Fault("a comment has no end: expected #}");
    const char mark = source_[end - 1];
    Move(end + 2 - at_);
    AfterTag(mark, true);
    return absl::OkStatus();
  }

  void AfterTag(char mark, bool trims) {
    if (mark == '-') {
      SkipSpace();
    } else if (mark != '+' && trims && absl::StartsWith(Rest(), "\n")) {
      Move(1);
    }
  }

  absl::Status Inside(int* depth) {
    const char c = source_[at_];
    if (c == '\'' || c == '"') return String(c);
    const auto run = [this](const auto& is) {
      size_t end = at_;
      while (end < source_.size() && is(static_cast<unsigned char>(source_[end]))) ++end;
      return end - at_;
    };
    if (absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_') {
      const size_t size = run([](unsigned char x) { return absl::ascii_isalnum(x) || x == '_'; });
      Push(Token::Kind::kName, Rest().substr(0, size));
      Move(size);
      return absl::OkStatus();
    }
    if (absl::ascii_isdigit(static_cast<unsigned char>(c))) {
      const size_t whole = run([](unsigned char x) { return absl::ascii_isdigit(x) || x == '_'; });
      size_t size = whole;
      if (size + 1 < Rest().size() && Rest()[size] == '.' &&
          absl::ascii_isdigit(static_cast<unsigned char>(Rest()[size + 1]))) {
        for (++size; size < Rest().size() &&
                     absl::ascii_isdigit(static_cast<unsigned char>(Rest()[size]));) {
          ++size;
        }
      }
      Push(size == whole ? Token::Kind::kInteger : Token::Kind::kFloat,
           absl::StrReplaceAll(Rest().substr(0, size), {{"_", ""}}));
      Move(size);
      return absl::OkStatus();
    }
    for (const absl::string_view op :
         {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*", "/", "%", "~", "<",
          ">",  "=",  ".",  ",",  ":",  "|",  "(", ")", "[", "]", "{", "}"}) {
      if (!absl::StartsWith(Rest(), op)) continue;
      if (op == "(" || op == "[" || op == "{") ++*depth;
      if (op == ")" || op == "]" || op == "}") --*depth;
      if (*depth < 0) return Fault(absl::StrCat("'", op, "' closes nothing"));
      Push(Token::Kind::kOperator, op);
      Move(op.size());
      return absl::OkStatus();
    }
    return Fault(absl::StrCat("'", absl::string_view(&c, 1), "' is not expected in a tag"));
  }

  absl::Status String(char quote) {
    std::string text;
    const int line = line_;
    size_t i = at_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\' || i + 1 >= source_.size()) {
        text.push_back(source_[i]);
        continue;
      }
      i = Escape(i + 1, &text);
    }
    if (i >= source_.size()) return Fault("a string has no end");
    Move(i + 1 - at_);
    tokens_.push_back({Token::Kind::kString, std::move(text), line});
    return absl::OkStatus();
  }

  // The escape whose letter is at `i`; gives where it ends.
  size_t Escape(size_t i, std::string* out) const {
    const char c = source_[i];
    static constexpr absl::string_view kLetters = "ntr\\'\"abfv0";
    static constexpr absl::string_view kMeanings("\n\t\r\\'\"\a\b\f\v\0", 11);
    if (const size_t at = kLetters.find(c); at != absl::string_view::npos) {
      out->push_back(kMeanings[at]);
      return i;
    }
    if (c == '\n') return i;
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t code = 0;
    if (digits > 0 && i + digits < source_.size() &&
        absl::SimpleHexAtoi(source_.substr(i + 1, digits), &code) && code < 0x110000) {
      AppendUtf8(code, out);
      return i + digits;
    }
    out->push_back('\\');
    out->push_back(c);
    return i;
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) {
  std::string text = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
  if (absl::EndsWith(text, "\n")) text.pop_back();
  return Lexer(std::move(text)).Run();
}

}  // namespace shiftadd::jinja
