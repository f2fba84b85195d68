#include "worker/model/pre_tokenizer.h"

#include "absl/strings/str_cat.h"
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

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const json& json) {
  PreTokenizer out;
  SA_RETURN_IF_ERROR(out.Add(json, 0));
  if (!out.byte_level_) return Unsupported("one without ByteLevel,", json);
  return out;
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
                         std::vector<absl::string_view>* words) const {
  if (text.empty()) return;
  std::vector<absl::string_view> pieces = {text}, next;
  for (const Stage& stage : stages_) {
    next.clear();
    for (absl::string_view piece : pieces) {
      if (stage.prefix_space && piece[0] != ' ') {
        storage->push_back(absl::StrCat(" ", piece));
        piece = storage->back();
      }
      if (stage.regex.empty()) {
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
