#include "worker/model/pre_tokenizer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

using nlohmann::json;

// What ByteLevel splits by, from GPT-2.
constexpr char kGpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

absl::Status Unsupported(absl::string_view what, const json& found) {
  return absl::UnimplementedError(
      absl::StrCat("pre_tokenizer: ", what, " ", found.dump().substr(0, 120), " is not supported"));
}

absl::StatusOr<bool> Flag(const json& object, const char* name, bool fallback) {
  const auto it = object.find(name);
  if (it == object.end()) return fallback;
  if (!it->is_boolean()) {
    return absl::InvalidArgumentError(
        absl::StrCat("pre_tokenizer: '", name, "' is not true or false"));
  }
  return it->get<bool>();
}

// Matches are kept. `Removed` with `invert` keeps matches too; it drops what lies between them,
// which the expressions in use leave nothing of.
absl::StatusOr<std::string> SplitPattern(const json& object) {
  const json behavior = object.value("behavior", json());
  SA_ASSIGN_OR_RETURN(const bool invert, Flag(object, "invert", false));
  const bool keeps = (behavior == "Isolated" && !invert) || (behavior == "Removed" && invert);
  if (!keeps) return Unsupported("Split with behavior", behavior);
  const json pattern = object.value("pattern", json());
  if (!pattern.is_object() || !pattern.contains("Regex") || !pattern["Regex"].is_string()) {
    return Unsupported("Split with pattern", pattern);
  }
  return pattern["Regex"].get<std::string>();
}

bool HasString(const json& split) {
  const json pattern = split.value("pattern", json());
  return pattern.is_object() && pattern.contains("String") && pattern["String"].is_string();
}

// Cuts at every delimiter, which goes to the piece behind it or before it. Of several in a row only
// the one next to that piece does; the others are pieces.
void SplitAt(absl::string_view text, absl::string_view delimiter, bool with_next,
             std::vector<absl::string_view>* out) {
  struct Span {
    size_t begin, end;
    bool match;
  };
  std::vector<Span> spans;
  size_t done = 0;
  for (size_t at = text.find(delimiter); at != absl::string_view::npos;
       at = text.find(delimiter, done)) {
    if (at > done) spans.push_back({done, at, false});
    done = at + delimiter.size();
    spans.push_back({at, done, true});
  }
  if (done < text.size()) spans.push_back({done, text.size(), false});
  for (size_t i = 0; i < spans.size(); ++i) {
    const Span& span = spans[i];
    const bool joins = i + 1 < spans.size() && (with_next ? span.match && !spans[i + 1].match
                                                          : !span.match && spans[i + 1].match);
    const size_t end = joins ? spans[++i].end : span.end;
    out->push_back(text.substr(span.begin, end - span.begin));
  }
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const json& json) {
  PreTokenizer out;
  if (!json.is_null()) SA_RETURN_IF_ERROR(out.Add(json, 0));
  return out;
}

absl::Status PreTokenizer::AddMetaspace(const json& object, Stage* stage) {
  const json space = object.value("replacement", json());
  if (!space.is_string() || space.get_ref<const std::string&>().empty()) {
    return Unsupported("Metaspace without a replacement,", object);
  }
  stage->space = space.get<std::string>();
  SA_ASSIGN_OR_RETURN(const bool prefix, Flag(object, "add_prefix_space", true));
  SA_ASSIGN_OR_RETURN(const bool split, Flag(object, "split", true));
  const json scheme = object.value("prepend_scheme", json(prefix ? "always" : "never"));
  if (scheme == "always") {
    stage->prepend = Prepend::kAlways;
  } else if (scheme == "first") {
    stage->prepend = Prepend::kFirst;
  } else if (scheme != "never") {
    return Unsupported("Metaspace with prepend_scheme", scheme);
  }
  if (split) stage->delimiter = stage->space;
  stage->with_next = true;
  return absl::OkStatus();
}

absl::Status PreTokenizer::Add(const json& object, int depth) {
  const json type = object.is_object() ? object.value("type", json()) : json();
  Stage stage;
  std::string pattern;
  if (type == "Sequence" && depth < 4) {
    const json list = object.value("pretokenizers", json());
    if (!list.is_array()) return Unsupported("Sequence without a list,", object);
    for (const json& item : list) SA_RETURN_IF_ERROR(Add(item, depth + 1));
    return absl::OkStatus();
  }
  if (type == "ByteLevel") {
    SA_ASSIGN_OR_RETURN(stage.prefix_space, Flag(object, "add_prefix_space", true));
    SA_ASSIGN_OR_RETURN(const bool use_regex, Flag(object, "use_regex", true));
    if (use_regex) pattern = kGpt2;
    byte_level_ = true;
  } else if (byte_level_) {
    // After ByteLevel text is no longer characters: what would follow works on another alphabet.
    return Unsupported("a stage after ByteLevel,", object);
  } else if (type == "Digits") {
    SA_ASSIGN_OR_RETURN(const bool individual, Flag(object, "individual_digits", false));
    pattern = individual ? "\\p{N}" : "\\p{N}+";
  } else if (type == "Metaspace") {
    SA_RETURN_IF_ERROR(AddMetaspace(object, &stage));
  } else if (type == "Split" && HasString(object)) {
    stage.delimiter = object["pattern"]["String"].get<std::string>();
    const json behavior = object.value("behavior", json());
    stage.with_next = behavior == "MergedWithNext";
    if ((!stage.with_next && behavior != "MergedWithPrevious") || stage.delimiter.empty()) {
      return Unsupported("Split at a string with behavior", behavior);
    }
  } else if (type == "Split") {
    SA_ASSIGN_OR_RETURN(pattern, SplitPattern(object));
  } else {
    return Unsupported("type", type.is_null() ? object : type);
  }
  if (!pattern.empty()) {
    auto regex = UnicodeRegex::Compile(pattern);
    if (!regex.ok()) return Annotate(regex.status(), "pre_tokenizer");
    stage.regex.push_back(*std::move(regex));
  }
  stages_.push_back(std::move(stage));
  return absl::OkStatus();
}

void PreTokenizer::Split(absl::string_view text, std::deque<std::string>* storage,
                         std::vector<absl::string_view>* words, bool first) const {
  if (text.empty()) return;
  const char* const start = text.data();
  std::vector<absl::string_view> pieces = {text}, next;
  for (const Stage& stage : stages_) {
    next.clear();
    for (absl::string_view piece : pieces) {
      if (stage.prefix_space && piece[0] != ' ') {
        storage->push_back(absl::StrCat(" ", piece));
        piece = storage->back();
      }
      if (!stage.space.empty()) {
        std::string replaced = absl::StrReplaceAll(piece, {{" ", stage.space}});
        const bool wanted = stage.prepend == Prepend::kAlways ||
                            (stage.prepend == Prepend::kFirst && first && piece.data() == start);
        if (wanted && !absl::StartsWith(replaced, stage.space)) replaced.insert(0, stage.space);
        storage->push_back(std::move(replaced));
        piece = storage->back();
      }
      if (!stage.delimiter.empty()) {
        SplitAt(piece, stage.delimiter, stage.with_next, &next);
      } else if (stage.regex.empty()) {
        next.push_back(piece);
      } else {
        stage.regex[0].Split(piece, &next);
      }
    }
    pieces.swap(next);
  }
  words->insert(words->end(), pieces.begin(), pieces.end());
}

}  // namespace shiftadd
