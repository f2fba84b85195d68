#include "worker/model/gguf_tokenizer.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/status_macros.h"
#include "worker/model/sentencepiece_model.h"

namespace shiftadd {
namespace {

using nlohmann::json;

// ggml's kinds of tokens.
enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5 };

// What a name in tokenizer.ggml.pre stands for.
struct PreTokenizerForm {
  std::vector<std::string> names;
  json pre_tokenizer;
  json normalizer;
  bool ignore_merges = false;
  bool add_bos = false;  // where the file does not say
};

json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

json Digits() { return {{"type", "Digits"}, {"individual_digits", true}}; }

// One after the other, and each digit for itself if `digits`.
json SplitThenBytes(std::initializer_list<const char*> expressions, bool digits = false) {
  json stages = json::array();
  for (const char* regex : expressions) {
    stages.push_back({{"type", "Split"},
                      {"pattern", {{"Regex", regex}}},
                      {"behavior", "Isolated"},
                      {"invert", false}});
  }
  if (digits) stages.push_back(Digits());
  stages.push_back(ByteLevel(false));
  return {{"type", "Sequence"}, {"pretokenizers", stages}};
}

const std::vector<PreTokenizerForm>& Forms() {
  static const char* const kLlama3 =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
      "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  static const char* const kQwen2 =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
      "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  static const char* const kBloom = " ?[^(\\s|[.,!?…。，、।۔،])]+";
  static const char* const kTekken =
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
      "\\p{N}| "
      "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  static const auto kDeepSeekCoder = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
                                      "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"};
  static const auto* const forms = new std::vector<PreTokenizerForm>{
      {{"smollm"},
       {{"type", "Sequence"}, {"pretokenizers", {Digits(), ByteLevel(true)}}},
       json(),
       false,
       false},
      {{"llama-bpe", "llama3", "llama-v3"}, SplitThenBytes({kLlama3}), json(), true, true},
      {{"smaug-bpe"}, SplitThenBytes({kLlama3}), json(), false, false},
      {{"tekken"}, SplitThenBytes({kTekken}), json(), true, true},
      {{"gpt-2"}, ByteLevel(true), json(), false, false},
      {{"qwen2"}, SplitThenBytes({kQwen2}), {{"type", "NFC"}}, false, false},
      {{"deepseek-r1-qwen"}, SplitThenBytes({kQwen2}), json(), false, false},
      {{"deepseek-coder"}, SplitThenBytes(kDeepSeekCoder, /*digits=*/true), json(), false, false},
      {{"bloom"}, SplitThenBytes({kBloom}), json(), false, false},
  };
  return *forms;
}

absl::StatusOr<const PreTokenizerForm*> FindForm(const GgufMetadata& meta) {
  SA_ASSIGN_OR_RETURN(const std::string model, meta.String("tokenizer.ggml.model", std::nullopt));
  if (model != "gpt2") {
    return absl::UnimplementedError(
        absl::StrCat(meta.file(), ": metadata 'tokenizer.ggml.model' is '", model,
                     "': not supported, supported are: gpt2 (byte-level BPE), llama "
                     "(SentencePiece BPE), t5 (Unigram)"));
  }
  SA_ASSIGN_OR_RETURN(const std::string pre, meta.String("tokenizer.ggml.pre", std::nullopt));
  std::vector<std::string> all;
  for (const PreTokenizerForm& form : Forms()) {
    if (std::count(form.names.begin(), form.names.end(), pre) > 0) return &form;
    all.insert(all.end(), form.names.begin(), form.names.end());
  }
  return absl::UnimplementedError(
      absl::StrCat(meta.file(), ": metadata 'tokenizer.ggml.pre' is '", pre,
                   "': not supported, supported are: ", absl::StrJoin(all, ", ")));
}

absl::StatusOr<std::vector<int64_t>> TokenTypes(const GgufMetadata& meta, size_t count) {
  const std::string key = "tokenizer.ggml.token_type";
  const json* value = meta.Find(key);
  if (value == nullptr) return std::vector<int64_t>(count, kNormal);
  bool good = value->is_array() && value->size() == count;
  std::vector<int64_t> types;
  for (size_t i = 0; good && i < count; ++i) {
    good = (*value)[i].is_number_integer();
    if (good) types.push_back((*value)[i].get<int64_t>());
  }
  if (!good) return meta.Fault(key, absl::StrCat("an array of ", count, " integers"));
  return types;
}

// Fills model.vocab and added_tokens.
absl::Status AddTokens(const GgufMetadata& meta, const std::vector<std::string>& tokens,
                       json* document) {
  SA_ASSIGN_OR_RETURN(const std::vector<int64_t> types, TokenTypes(meta, tokens.size()));
  json& vocab = (*document)["model"]["vocab"] = json::object();
  json& added = (*document)["added_tokens"] = json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] == kUnused) continue;
    if (!vocab.emplace(tokens[i], i).second) {
      return absl::InvalidArgumentError(absl::StrCat(meta.file(),
                                                     ": metadata 'tokenizer.ggml.tokens': entry ",
                                                     i, " '", tokens[i], "' stands twice"));
    }
    if (types[i] != kControl && types[i] != kUserDefined && types[i] != kUnknown) continue;
    added.push_back({{"id", i},
                     {"content", tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", types[i] != kUserDefined}});
  }
  return absl::OkStatus();
}

absl::Status AddMerges(const GgufMetadata& meta, json* document) {
  SA_ASSIGN_OR_RETURN(const std::vector<std::string> merges, meta.Strings("tokenizer.ggml.merges"));
  json& out = (*document)["model"]["merges"] = json::array();
  for (const std::string& merge : merges) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos || space + 1 == merge.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(meta.file(), ": metadata 'tokenizer.ggml.merges': entry ", out.size(), " '",
                       merge, "' is not two tokens and a space"));
    }
    out.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  return absl::OkStatus();
}

json EmptyDocument(const PreTokenizerForm& form) {
  json decoder = ByteLevel(true);
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"normalizer", form.normalizer},
          {"pre_tokenizer", form.pre_tokenizer},
          {"post_processor", nullptr},
          {"decoder", std::move(decoder)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", form.ignore_merges}}}};
}

// Offsets into the text change no token.
json WithoutOffsets(json pre_tokenizer) {
  if (pre_tokenizer.is_object()) pre_tokenizer.erase("trim_offsets");
  for (json& inner : pre_tokenizer) {
    if (inner.is_structured()) inner = WithoutOffsets(std::move(inner));
  }
  return pre_tokenizer;
}

}  // namespace

absl::StatusOr<std::string> GgufPreTokenizerName(const json& tokenizer) {
  const json model = tokenizer.value("model", json::object());
  if (model.value("type", json()) != "BPE") {
    return absl::UnimplementedError(absl::StrCat("tokenizer.json: model.type is ",
                                                 model.value("type", json()).dump(),
                                                 ": GGUF files are written of BPE only"));
  }
  const json cut = WithoutOffsets(tokenizer.value("pre_tokenizer", json()));
  json normalizer = tokenizer.value("normalizer", json());
  if (normalizer == json{{"type", "Sequence"}, {"normalizers", json::array()}})
    normalizer = nullptr;
  for (const PreTokenizerForm& form : Forms()) {
    if (cut == WithoutOffsets(form.pre_tokenizer) && normalizer == form.normalizer &&
        model.value("ignore_merges", false) == form.ignore_merges) {
      return form.names[0];
    }
  }
  return absl::UnimplementedError(
      "tokenizer.json: how it cuts text (pre_tokenizer, normalizer, ignore_merges) has no name in "
      "GGUF that this program knows");
}

namespace {

absl::StatusOr<json> ByteLevelDocument(const GgufMetadata& meta,
                                       const std::vector<std::string>& tokens, bool* add_bos) {
  SA_ASSIGN_OR_RETURN(const PreTokenizerForm* form, FindForm(meta));
  *add_bos = form->add_bos;
  json document = EmptyDocument(*form);
  SA_RETURN_IF_ERROR(AddTokens(meta, tokens, &document));
  SA_RETURN_IF_ERROR(AddMerges(meta, &document));
  return document;
}

// An array of bytes, signed or not; empty where there is none.
absl::StatusOr<std::string> ReadCharacterMap(const GgufMetadata& meta) {
  const std::string key = "tokenizer.ggml.precompiled_charsmap";
  const json* value = meta.Find(key);
  std::string bytes;
  if (value == nullptr) return bytes;
  if (!value->is_array()) return meta.Fault(key, "an array of bytes");
  bytes.reserve(value->size());
  for (const json& byte : *value) {
    if (!byte.is_number_integer()) return meta.Fault(key, "an array of bytes");
    const int64_t number = byte.get<int64_t>();
    if (number < -128 || number > 255) return meta.Fault(key, "an array of bytes");
    bytes.push_back(static_cast<char>(number));
  }
  return bytes;
}

absl::StatusOr<json> SentencePieceDocument(const GgufMetadata& meta,
                                           const std::vector<std::string>& tokens, bool bpe) {
  SentencePieceModel model;
  model.bpe = bpe;
  SA_ASSIGN_OR_RETURN(model.add_space_prefix, meta.Bool("tokenizer.ggml.add_space_prefix", true));
  SA_ASSIGN_OR_RETURN(model.folds_spaces,
                      meta.Bool("tokenizer.ggml.remove_extra_whitespaces", false));
  SA_ASSIGN_OR_RETURN(model.character_map, ReadCharacterMap(meta));
  SA_ASSIGN_OR_RETURN(const std::vector<int64_t> types, TokenTypes(meta, tokens.size()));
  const std::string key = "tokenizer.ggml.scores";
  const json* scores = meta.Find(key);
  const bool fits = scores != nullptr && scores->is_array() && scores->size() == tokens.size();
  if (!fits) return meta.Fault(key, absl::StrCat("an array of ", tokens.size(), " numbers"));
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!(*scores)[i].is_number()) {
      return meta.Fault(key, absl::StrCat("an array of ", tokens.size(), " numbers"));
    }
    model.pieces.push_back(
        {tokens[i], (*scores)[i].get<float>(), static_cast<PieceType>(types[i])});
  }
  return SentencePieceTokenizerJson(model, absl::StrCat(meta.file(), ": tokenizer.ggml.tokens"));
}

}  // namespace

absl::StatusOr<std::string> TokenizerJsonFromGguf(const GgufMetadata& meta,
                                                  ArchitectureSpec* spec) {
  SA_ASSIGN_OR_RETURN(const std::string model, meta.String("tokenizer.ggml.model", std::nullopt));
  SA_ASSIGN_OR_RETURN(const std::vector<std::string> tokens, meta.Strings("tokenizer.ggml.tokens"));
  bool add_bos = model == "llama";
  json document;
  if (model == "llama" || model == "t5") {
    SA_ASSIGN_OR_RETURN(document, SentencePieceDocument(meta, tokens, model == "llama"));
  } else {
    SA_ASSIGN_OR_RETURN(document, ByteLevelDocument(meta, tokens, &add_bos));
  }
  SA_ASSIGN_OR_RETURN(spec->add_bos, meta.Bool("tokenizer.ggml.add_bos_token", add_bos));
  const int64_t bos = spec->bos_token;
  if (spec->add_bos) {
    if (bos < 0 || bos >= static_cast<int64_t>(tokens.size())) {
      return meta.Fault("tokenizer.ggml.bos_token_id", "the id of a token, for BOS is to be added");
    }
    document["post_processor"] = BosTemplate(tokens[static_cast<size_t>(bos)], bos);
  }
  SA_ASSIGN_OR_RETURN(const std::string chat, meta.String("tokenizer.chat_template", ""));
  document["shiftadd"] = {{"chat_template", chat.empty() ? json() : json(chat)},
                          {"bos", bos < 0 ? json() : json(bos)},
                          {"eos", spec->eos_tokens}};
  return document.dump();
}

}  // namespace shiftadd
