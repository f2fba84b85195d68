#include "worker/model/unicode_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {

// Unicode's White_Space. PCRE2's \s also matches U+180E, which is none since Unicode 6.3.
constexpr char kSpaces[] =
    "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}"
    "\\x{205F}\\x{3000}";
// Backtracking steps for one match: a bad pattern must not hang.
constexpr uint32_t kMatchLimit = 1'000'000;

// Oniguruma takes a class inside a class for their union, PCRE2 knows none: the inner brackets go.
// False for one that is no union of characters.
bool Rewrite(const std::string& pattern, std::string* rewritten) {
  std::string& out = *rewritten;
  bool in_class = false;
  int inner = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      if (next == 's') {
        absl::StrAppend(&out, in_class ? "" : "[", kSpaces, in_class ? "" : "]");
      } else if (next == 'S' && !in_class) {
        absl::StrAppend(&out, "[^", kSpaces, "]");
      } else {
        out += c;
        out += next;
      }
      continue;
    }
    const char next = i + 1 < pattern.size() ? pattern[i + 1] : 0;
    if (in_class && c == '&' && next == '&') return false;
    if (in_class && c == '[' && next != ':') {
      if (next == '^') return false;
      ++inner;
      continue;
    }
    if (inner > 0 && c == ']') {
      --inner;
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return true;
}

size_t CharacterLength(absl::string_view text, size_t at) {
  size_t end = at + 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) ++end;
  return end - at;
}

}  // namespace

struct UnicodeRegex::Code {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  ~Code() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};

absl::StatusOr<UnicodeRegex> UnicodeRegex::Compile(const std::string& pattern) {
  std::string rewritten;
  if (!Rewrite(pattern, &rewritten)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the regular expression '", pattern,
        "' is not supported: an intersection of classes, or a negated class inside a class"));
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(rewritten.data()), rewritten.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code->code == nullptr) {
    PCRE2_UCHAR message[128] = {0};
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(
        absl::StrCat("the regular expression '", pattern,
                     "' does not compile: ", reinterpret_cast<const char*>(message)));
  }
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);  // without it matching is slower, not wrong
  code->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(code->context, kMatchLimit);
  return UnicodeRegex(std::move(code));
}

void UnicodeRegex::Split(absl::string_view text, std::vector<absl::string_view>* pieces) const {
  ForEachMatch(text, [pieces](absl::string_view before, absl::string_view match) {
    for (const absl::string_view piece : {before, match}) {
      if (!piece.empty()) pieces->push_back(piece);
    }
  });
}

std::string UnicodeRegex::Replace(absl::string_view text, absl::string_view to) const {
  std::string out;
  ForEachMatch(text, [&out, to](absl::string_view before, absl::string_view match) {
    absl::StrAppend(&out, before, match.empty() ? absl::string_view() : to);
  });
  return out;
}

void UnicodeRegex::ForEachMatch(
    absl::string_view text,
    const std::function<void(absl::string_view, absl::string_view)>& on_match) const {
  pcre2_match_data* match = pcre2_match_data_create_from_pattern(code_->code, nullptr);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t done = 0;  // everything before was called back
  size_t from = 0;
  while (from < text.size()) {
    int rc = pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, match,
                         code_->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       match, code_->context);
    }
    if (rc < 0) break;  // no match, or too hard: the rest is one piece
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match);
    if (span[1] <= span[0]) {  // an empty match (or a \K oddity) splits nothing
      from += CharacterLength(text, from);
      continue;
    }
    on_match(text.substr(done, span[0] - done), text.substr(span[0], span[1] - span[0]));
    done = from = span[1];
  }
  if (done < text.size()) on_match(text.substr(done), text.substr(text.size()));
  pcre2_match_data_free(match);
}

}  // namespace shiftadd
