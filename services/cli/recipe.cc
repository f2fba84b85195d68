#include "services/cli/recipe.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/status_macros.h"
#include "services/cli/files.h"
#include "services/cli/proto_json.h"
#include "services/job/recipe.h"

namespace shiftadd::cli {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxBytes = 1 << 20;
constexpr int kMaxNodes = 100'000;  // aliases can make a small file huge, or endless
constexpr int kMaxDepth = 16;

// Plain YAML scalars are typed as YAML 1.2 core does; quoted ones are strings.
Json Scalar(const YAML::Node& node) {
  const std::string& text = node.Scalar();
  if (node.Tag() == "!") return text;
  if (text.empty() || text == "~" || text == "null") return nullptr;
  if (text == "true" || text == "false") return text == "true";
  if (int64_t number = 0; absl::SimpleAtoi(text, &number)) {
    return number < 0 ? Json(number) : Json(static_cast<uint64_t>(number));
  }
  if (uint64_t number = 0; absl::SimpleAtoi(text, &number)) return number;
  if (double number = 0; absl::SimpleAtod(text, &number)) return number;
  return text;
}

class YamlReader {
 public:
  explicit YamlReader(std::vector<std::string>* faults) : faults_(faults) {}

  Json Read(const YAML::Node& node, const std::string& path, int depth = 0) {
    if (depth > kMaxDepth) {
      if (!too_deep_)
        faults_->push_back(absl::StrCat("recipe: nested deeper than ", kMaxDepth, " levels"));
      too_deep_ = true;
      return nullptr;
    }
    if (++nodes_ > kMaxNodes) {
      if (nodes_ == kMaxNodes + 1)
        faults_->push_back(absl::StrCat(path, ": too many values in the file"));
      return nullptr;
    }
    if (node.IsScalar()) return Scalar(node);
    if (node.IsSequence()) {
      Json list = Json::array();
      for (const YAML::Node& item : node) {
        list.push_back(Read(item, absl::StrCat(path, "[", list.size(), "]"), depth + 1));
      }
      return list;
    }
    if (node.IsMap()) return ReadMap(node, path, depth);
    return nullptr;
  }

 private:
  Json ReadMap(const YAML::Node& node, const std::string& path, int depth) {
    Json object = Json::object();
    for (const auto& item : node) {
      if (!item.first.IsScalar()) {
        faults_->push_back(absl::StrCat(path, ": a field name must be plain text"));
        continue;
      }
      const std::string key = item.first.Scalar();
      const std::string where = absl::StrCat(path, ".", key);
      if (object.contains(key)) faults_->push_back(absl::StrCat(where, ": is given twice"));
      object[key] = Read(item.second, where, depth + 1);
    }
    return object;
  }

  std::vector<std::string>* faults_;
  int nodes_ = 0;
  bool too_deep_ = false;
};

// Hears what a parser reads and keeps none of it.
class Deaf : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

// Whether something follows the first document. YAML::LoadAll would not come to an end where a
// token that begins none, as a comma, stands between two: it makes empty documents of it for ever.
bool HasSeveralDocuments(const std::string& text) {
  std::istringstream in(text);
  YAML::Parser parser(in);
  Deaf deaf;
  return parser.HandleNextDocument(deaf) && parser.HandleNextDocument(deaf);
}

absl::StatusOr<Json> ParseYaml(const std::string& text, const std::string& name,
                               std::vector<std::string>* faults) {
  try {
    if (HasSeveralDocuments(text)) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": something follows its first document, expected one document and nothing else"));
    }
    const YAML::Node document = YAML::Load(text);
    if (document.IsNull()) return Json::object();
    return YamlReader(faults).Read(document, "recipe");
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": line ", e.mark.line + 1, ", column ",
                                                   e.mark.column + 1, ": not YAML: ", e.msg));
  }
}

absl::StatusOr<Json> ParseJson(const std::string& text, const std::string& name,
                               std::vector<std::string>* faults) {
  // Keys of the object that is open at each depth.
  std::vector<std::set<std::string>> seen(kMaxDepth + 2);
  bool too_deep = false;
  const auto keep = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) {
      too_deep = true;
      return false;
    }
    if (event == Json::parse_event_t::object_start) seen[depth + 1].clear();
    if (event == Json::parse_event_t::key && !seen[depth].insert(value.get<std::string>()).second) {
      faults->push_back(absl::StrCat("recipe: '", value.get<std::string>(), "' is given twice"));
    }
    return true;
  };
  try {
    Json json = Json::parse(text, keep);
    if (too_deep) {
      faults->push_back(absl::StrCat("recipe: nested deeper than ", kMaxDepth, " levels"));
    }
    return json;
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not JSON: ", e.what()));
  }
}

// A whole row is a group size to people, and a field of its own on the wire.
void ReadGroupSize(Json* json, std::vector<std::string>* faults) {
  if (!json->is_object() || json->value("group_size", Json()) != "row") return;
  if (json->contains("whole_row") && (*json)["whole_row"] != true) {
    faults->push_back("recipe.whole_row: found " + (*json)["whole_row"].dump() +
                      ", expected true or nothing with group_size row");
  }
  json->erase("group_size");
  (*json)["whole_row"] = true;
}

// Whether one of `faults` ("recipe.sweeps: …", "recipe.overrides[0].bits: …") is about `field` or
// a part of it.
bool Faulty(const std::vector<std::string>& faults, absl::string_view field) {
  return std::any_of(faults.begin(), faults.end(), [field](const std::string& fault) {
    return absl::StartsWith(fault, field) && fault.size() > field.size() &&
           absl::StrContains(":.[", fault[field.size()]);
  });
}

// Adds what the coordinator would say of the fields that could be read. Where all can be read,
// judging them is left to it: it may be another version.
void AddValueFaults(v1::Recipe recipe, std::vector<std::string>* faults) {
  const std::vector<std::string> unread = *faults;
  // Which fields may be set depends on the method.
  if (Faulty(unread, "recipe.method")) recipe.set_method(static_cast<v1::Method>(-1));
  FaultList found;
  ResolveRecipe(&recipe, &found);
  for (const FieldFault& fault : found.Take()) {
    if (Faulty(unread, fault.field)) continue;
    faults->push_back(absl::StrCat(fault.field, ": ", fault.description));
  }
}

}  // namespace

absl::StatusOr<v1::Recipe> ParseRecipe(const std::string& text, const std::string& name) {
  std::vector<std::string> faults;
  Json json;
  if (absl::EndsWith(name, ".json")) {
    SA_ASSIGN_OR_RETURN(json, ParseJson(text, name, &faults));
  } else {
    SA_ASSIGN_OR_RETURN(json, ParseYaml(text, name, &faults));
  }
  ReadGroupSize(&json, &faults);
  v1::Recipe recipe;
  FromJson(json, "recipe", &recipe, &faults);
  if (faults.empty()) return recipe;
  AddValueFaults(recipe, &faults);
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", absl::StrJoin(faults, "; ")));
}

absl::StatusOr<v1::Recipe> LoadRecipe(const std::string& path) {
  SA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxBytes));
  return ParseRecipe(text, path);
}

}  // namespace shiftadd::cli
