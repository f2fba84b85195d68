// A Hugging Face directory: config.json, safetensors in one or many files, tokenizer.json and its
// companions.
#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/checked_model.h"
#include "worker/model/sentencepiece_model.h"
#include "worker/tensor/json_text.h"
#include "worker/tensor/tensor_table.h"

namespace shiftadd {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxJson = size_t{256} << 20;

class Directory {
 public:
  explicit Directory(std::string path) : path_(std::move(path)) {}

  std::string At(const std::string& name) const { return (fs::path(path_) / name).string(); }
  bool Has(const std::string& name) const {
    std::error_code error;
    return fs::exists(At(name), error);
  }
  absl::StatusOr<json> ReadJson(const std::string& name) {
    SA_ASSIGN_OR_RETURN(const std::string text, ReadText(name));
    return ParseJsonObject(text, At(name));
  }
  absl::StatusOr<std::string> ReadText(const std::string& name) {
    SA_ASSIGN_OR_RETURN(std::string text, ReadTextFile(At(name), kMaxJson));
    read_.push_back(AbsolutePath(At(name)));
    return text;
  }
  const std::string& path() const { return path_; }
  const std::vector<std::string>& read() const { return read_; }

 private:
  std::string path_;
  std::vector<std::string> read_;
};

// tensor name -> shard, from an index.
absl::StatusOr<std::map<std::string, std::string>> ReadWeightMap(Directory* directory,
                                                                 const std::string& index) {
  SA_ASSIGN_OR_RETURN(const json document, directory->ReadJson(index));
  const auto it = document.find("weight_map");
  if (it == document.end() || !it->is_object() || it->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(index, ": field 'weight_map' is missing, empty or not an object"));
  }
  std::map<std::string, std::string> map;
  for (const auto& [tensor, shard] : it->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    // A shard is a file of this directory: nothing may point elsewhere.
    if (!absl::EndsWith(name, ".safetensors") || name.find('/') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(index, ": tensor '", tensor, "' is said to be in ",
                       shard.dump().substr(0, 80), ", expected the name of a .safetensors file"));
    }
    map[tensor] = name;
  }
  return map;
}

absl::Status CheckWeightMap(const std::string& index, const std::map<std::string, std::string>& map,
                            const TensorSource& tensors) {
  for (const auto& [tensor, shard] : map) {
    const auto it = tensors.tensors().find(tensor);
    if (it == tensors.tensors().end() || it->second.file != shard) {
      return absl::InvalidArgumentError(
          absl::StrCat(index, ": tensor '", tensor, "' is said to be in ", shard, ", found ",
                       it == tensors.tensors().end() ? "nowhere" : "in " + it->second.file));
    }
  }
  for (const auto& [tensor, info] : tensors.tensors()) {
    if (map.count(tensor) > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(index, ": tensor '", tensor, "' of ", info.file, " is not in the weight_map"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TensorSource>> OpenIndexed(Directory* directory,
                                                          const std::string& index) {
  SA_ASSIGN_OR_RETURN(const auto map, ReadWeightMap(directory, index));
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map) shards.insert(shard);
  std::vector<std::string> paths;
  for (const std::string& shard : shards) {
    if (!directory->Has(shard)) {
      return absl::NotFoundError(
          absl::StrCat(directory->At(shard), ": the shard is missing, ", index, " names it"));
    }
    paths.push_back(directory->At(shard));
  }
  SA_ASSIGN_OR_RETURN(auto tensors, OpenSafetensors(paths, directory->path()));
  SA_RETURN_IF_ERROR(CheckWeightMap(index, map, *tensors));
  return tensors;
}

absl::StatusOr<std::unique_ptr<TensorSource>> OpenWeights(Directory* directory) {
  const std::string index = "model.safetensors.index.json";
  if (directory->Has(index)) return OpenIndexed(directory, index);
  if (directory->Has("model.safetensors")) {
    return OpenSafetensors({directory->At("model.safetensors")}, directory->path());
  }
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory->path(), error)) {
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path().string());
  }
  if (error || paths.empty()) {
    return absl::NotFoundError(
        absl::StrCat("has no .safetensors file", error ? ": " + error.message() : ""));
  }
  return OpenSafetensors(paths, directory->path());
}

absl::StatusOr<const Family*> FindFamily(const json& config, const std::string& file) {
  const auto it = config.find("architectures");
  if (it == config.end() || !it->is_array() || it->size() != 1 || !(*it)[0].is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": field 'architectures' is ",
                     it == config.end() ? "missing" : it->dump().substr(0, 80),
                     ", expected a list of one name"));
  }
  auto family = FamilyByHuggingFaceName((*it)[0].get<std::string>());
  if (!family.ok()) return Annotate(family.status(), file);
  return family;
}

// generation_config.json has the last word on what ends a text.
absl::Status ReadGenerationConfig(Directory* directory, ArchitectureSpec* spec) {
  const std::string name = "generation_config.json";
  if (!directory->Has(name)) return absl::OkStatus();
  SA_ASSIGN_OR_RETURN(const json config, directory->ReadJson(name));
  const auto fault = [&](const char* field) {
    return absl::InvalidArgumentError(absl::StrCat(directory->At(name), ": field '", field,
                                                   "' is not a token id or a list of them"));
  };
  const json eos = config.value("eos_token_id", json());
  if (!eos.is_null()) {
    spec->eos_tokens.clear();
    for (const json& id : eos.is_array() ? eos : json::array({eos})) {
      if (!id.is_number_integer()) return fault("eos_token_id");
      spec->eos_tokens.push_back(id.get<int64_t>());
    }
  }
  const json bos = config.value("bos_token_id", json());
  if (bos.is_null()) return absl::OkStatus();
  if (!bos.is_number_integer()) return fault("bos_token_id");
  spec->bos_token = bos.get<int64_t>();
  return absl::OkStatus();
}

// A template stands in its own file, or in tokenizer_config.json as a string or as a list of named
// ones.
absl::StatusOr<json> ReadChatTemplate(Directory* directory) {
  if (directory->Has("chat_template.jinja")) {
    SA_ASSIGN_OR_RETURN(const std::string text, directory->ReadText("chat_template.jinja"));
    if (IsValidUtf8(text)) return json(text);
    return absl::InvalidArgumentError(
        absl::StrCat(directory->At("chat_template.jinja"), ": is not UTF-8"));
  }
  if (!directory->Has("tokenizer_config.json")) return json();
  SA_ASSIGN_OR_RETURN(const json config, directory->ReadJson("tokenizer_config.json"));
  const json value = config.value("chat_template", json());
  if (!value.is_array()) return value.is_string() ? value : json();
  for (const json& entry : value) {
    if (entry.is_object() && entry.value("name", json()) == "default") {
      return entry.value("template", json());
    }
  }
  return json();
}

// True if the post-processor puts the BOS token before a text.
bool PostProcessorAddsBos(const json& tokenizer) {
  const json post = tokenizer.value("post_processor", json());
  if (!post.is_object()) return false;
  json processors = post.value("type", json()) == "Sequence" ? post.value("processors", json())
                                                             : json::array({post});
  for (const json& p : processors) {
    if (!p.is_object() || p.value("type", json()) != "TemplateProcessing") continue;
    const json single = p.value("single", json());
    if (single.is_array() && !single.empty() && single[0].is_object() &&
        single[0].contains("SpecialToken")) {
      return true;
    }
  }
  return false;
}

// SentencePiece's own file; whether BOS goes before a text stands in tokenizer_config.json.
absl::StatusOr<json> ReadSentencePiece(Directory* directory, const ArchitectureSpec& spec) {
  const std::string name = "tokenizer.model";
  SA_ASSIGN_OR_RETURN(const std::string bytes, directory->ReadText(name));
  SA_ASSIGN_OR_RETURN(const SentencePieceModel model,
                      ParseSentencePieceModel(bytes, directory->At(name)));
  SA_ASSIGN_OR_RETURN(json tokenizer, SentencePieceTokenizerJson(model, directory->At(name)));
  bool add_bos = true;
  if (directory->Has("tokenizer_config.json")) {
    SA_ASSIGN_OR_RETURN(const json config, directory->ReadJson("tokenizer_config.json"));
    add_bos = config.value("add_bos_token", json(true)) != false;
  }
  const int64_t bos = spec.bos_token;
  if (add_bos && bos >= 0 && bos < static_cast<int64_t>(model.pieces.size())) {
    tokenizer["post_processor"] = BosTemplate(model.pieces[static_cast<size_t>(bos)].text, bos);
  }
  return tokenizer;
}

absl::StatusOr<std::string> ReadTokenizer(Directory* directory, ArchitectureSpec* spec) {
  const std::string name = "tokenizer.json";
  json tokenizer;
  if (directory->Has(name)) {
    SA_ASSIGN_OR_RETURN(tokenizer, directory->ReadJson(name));
  } else if (directory->Has("tokenizer.model")) {
    SA_ASSIGN_OR_RETURN(tokenizer, ReadSentencePiece(directory, *spec));
  } else {
    return absl::NotFoundError(absl::StrCat(
        directory->At(name), ": is missing, and so is tokenizer.model; others are not read"));
  }
  SA_ASSIGN_OR_RETURN(json chat, ReadChatTemplate(directory));
  spec->add_bos = PostProcessorAddsBos(tokenizer);
  tokenizer["shiftadd"] = {{"chat_template", std::move(chat)},
                           {"bos", spec->bos_token < 0 ? json() : json(spec->bos_token)},
                           {"eos", spec->eos_tokens}};
  return tokenizer.dump();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenHuggingFaceDirectory(const std::string& path) {
  Directory directory(path);
  if (!directory.Has("config.json")) {
    return absl::NotFoundError(absl::StrCat(directory.At("config.json"), ": is missing"));
  }
  ModelParts parts;
  parts.path = path;
  parts.format = SourceFormat::kHuggingFace;
  SA_ASSIGN_OR_RETURN(const json config, directory.ReadJson("config.json"));
  SA_ASSIGN_OR_RETURN(parts.family, FindFamily(config, directory.At("config.json")));
  SA_ASSIGN_OR_RETURN(parts.spec, parts.family->from_config(config, directory.At("config.json")));
  SA_RETURN_IF_ERROR(ReadGenerationConfig(&directory, &parts.spec));
  SA_ASSIGN_OR_RETURN(parts.tokenizer_json, ReadTokenizer(&directory, &parts.spec));
  auto tensors = OpenWeights(&directory);
  if (!tensors.ok()) return Annotate(tensors.status(), path);
  parts.tensors = *std::move(tensors);
  parts.metadata_files = directory.read();
  return MakeCheckedModel(std::move(parts));
}

}  // namespace shiftadd
