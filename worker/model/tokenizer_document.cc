#include "worker/model/tokenizer_document.h"

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/tensor/json_text.h"

namespace shiftadd {
namespace {

using nlohmann::json;

constexpr int64_t kMaxId = (1 << 24) - 1;

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", what));
}
absl::Status Unsupported(absl::string_view field, const json& found, absl::string_view supported) {
  return absl::UnimplementedError(absl::StrCat("tokenizer: ", field, " ",
                                               found.dump().substr(0, 120),
                                               " is not supported, supported: ", supported));
}

const json& Member(const json& object, const char* name) {
  static const json null;
  if (!object.is_object()) return null;
  const auto it = object.find(name);
  return it == object.end() ? null : *it;
}

bool IsOff(const json& value) {
  const auto* text = value.get_ptr<const std::string*>();
  return value.is_null() || value == false || (text != nullptr && text->empty());
}

absl::StatusOr<int32_t> ReadId(const json& value, absl::string_view where) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(kMaxId)) {
    return Invalid(absl::StrCat(where, ": ", value.dump().substr(0, 80),
                                " is not a token id from "
                                "0 to ",
                                kMaxId));
  }
  return value.get<int32_t>();
}

class Reader {
 public:
  explicit Reader(const json& document) : document_(document) {}

  absl::StatusOr<TokenizerDocument> Read() {
    SA_RETURN_IF_ERROR(ReadModel());
    SA_RETURN_IF_ERROR(ReadAdded());
    SA_ASSIGN_OR_RETURN(out_.normalizer, Normalizer::FromJson(Member(document_, "normalizer")));
    SA_ASSIGN_OR_RETURN(out_.pre_tokenizer,
                        PreTokenizer::FromJson(Member(document_, "pre_tokenizer")));
    SA_RETURN_IF_ERROR(FindKind());
    SA_RETURN_IF_ERROR(ReadPostProcessor(Member(document_, "post_processor"), 0));
    SA_RETURN_IF_ERROR(ReadDecoder());
    SA_RETURN_IF_ERROR(ReadExtension());
    return std::move(out_);
  }

 private:
  absl::Status ReadModel();
  absl::Status ReadUnigram(const json& model);
  absl::Status ReadMerges(const json& model);
  absl::Status FindKind();
  absl::Status ReadAdded();
  absl::Status ReadPostProcessor(const json& post, int depth);
  absl::Status ReadTemplate(const json& post);
  absl::Status ReadDecoder();
  absl::Status ReadDecoderStep(const json& step);
  absl::Status ReadExtension();
  absl::Status Place(const std::string& text, int32_t id);

  const json& document_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  TokenizerDocument out_;
};

absl::Status Reader::Place(const std::string& text, int32_t id) {
  if (out_.vocab.size() <= static_cast<size_t>(id)) out_.vocab.resize(static_cast<size_t>(id) + 1);
  std::optional<std::string>& slot = out_.vocab[static_cast<size_t>(id)];
  const auto it = ids_.find(text);
  if (slot.has_value() && *slot != text) {
    return Invalid(absl::StrCat("id ", id, " stands for '", *slot, "' and for '", text, "'"));
  }
  if (it != ids_.end() && it->second != id) {
    return Invalid(absl::StrCat("'", text, "' has the ids ", it->second, " and ", id));
  }
  slot = text;
  ids_.emplace(text, id);
  return absl::OkStatus();
}

absl::Status Reader::ReadModel() {
  const json& model = Member(document_, "model");
  if (!model.is_object()) return Invalid("'model' is missing or not an object");
  const json& type = Member(model, "type");
  if (type == "Unigram") return ReadUnigram(model);
  // Old files do not name the type; their vocabulary is an object and they have merges.
  if (type != "BPE" && !(type.is_null() && model.contains("merges"))) {
    return Unsupported("model type", type, "BPE, Unigram");
  }
  for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!IsOff(Member(model, name))) {
      return Unsupported(absl::StrCat("model.", name), Member(model, name), "none");
    }
  }
  const json& vocab = Member(model, "vocab");
  if (!vocab.is_object() || vocab.empty()) {
    return Invalid("'model.vocab' is missing, empty or not an object");
  }
  ids_.reserve(vocab.size());
  out_.vocab.reserve(vocab.size());
  for (const auto& [text, id] : vocab.items()) {
    SA_ASSIGN_OR_RETURN(const int32_t number,
                        ReadId(id, absl::StrCat("model.vocab: '", text, "'")));
    SA_RETURN_IF_ERROR(Place(text, number));
  }
  SA_RETURN_IF_ERROR(ReadMerges(model));
  out_.ignore_merges = Member(model, "ignore_merges") == true;
  out_.byte_fallback = Member(model, "byte_fallback") == true;
  out_.fuse_unknown = Member(model, "fuse_unk") == true;
  const json& unknown = Member(model, "unk_token");
  if (IsOff(unknown)) return absl::OkStatus();
  const auto it = unknown.is_string() ? ids_.find(unknown.get<std::string>()) : ids_.end();
  if (it == ids_.end()) return Invalid("'model.unk_token' is not in the vocabulary");
  out_.unknown = it->second;
  return absl::OkStatus();
}

absl::Status Reader::ReadUnigram(const json& model) {
  out_.kind = TokenizerKind::kUnigram;
  const json& vocab = Member(model, "vocab");
  if (!vocab.is_array() || vocab.empty()) {
    return Invalid("'model.vocab' is missing, empty or not a list");
  }
  for (const json& entry : vocab) {
    const size_t id = out_.scores.size();
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      return Invalid(absl::StrCat("model.vocab: entry ", id, " is not a token and a score"));
    }
    SA_RETURN_IF_ERROR(Place(entry[0].get<std::string>(), static_cast<int32_t>(id)));
    out_.scores.push_back(entry[1].get<double>());
  }
  out_.byte_fallback = Member(model, "byte_fallback") == true;
  const json& unknown = Member(model, "unk_id");
  if (unknown.is_null()) return absl::OkStatus();
  SA_ASSIGN_OR_RETURN(out_.unknown, ReadId(unknown, "model.unk_id"));
  if (static_cast<size_t>(out_.unknown) < out_.scores.size()) return absl::OkStatus();
  return Invalid(absl::StrCat("model.unk_id ", out_.unknown, " is not in the vocabulary"));
}

// A byte-level alphabet is what the pre-tokenizer makes.
absl::Status Reader::FindKind() {
  const bool bytes = out_.pre_tokenizer->byte_level();
  if (out_.kind != TokenizerKind::kUnigram) {
    out_.kind = bytes ? TokenizerKind::kByteLevelBpe : TokenizerKind::kBpe;
  }
  if (!bytes) return absl::OkStatus();
  if (out_.kind == TokenizerKind::kUnigram) {
    return Unsupported("pre_tokenizer of a Unigram model", Member(document_, "pre_tokenizer"),
                       "those without ByteLevel");
  }
  if (out_.byte_fallback) return Unsupported("model.byte_fallback", true, "false, with ByteLevel");
  if (out_.fuse_unknown && out_.unknown >= 0) {
    return Unsupported("model.fuse_unk", true, "false, with ByteLevel");
  }
  return absl::OkStatus();
}

// Either "left right" or ["left", "right"].
absl::Status Reader::ReadMerges(const json& model) {
  const json& merges = Member(model, "merges");
  if (!merges.is_array()) return Invalid("'model.merges' is missing or not a list");
  out_.merges.reserve(merges.size());
  for (const json& merge : merges) {
    const std::string where = absl::StrCat("model.merges: entry ", out_.merges.size());
    std::string left, right;
    if (merge.is_string()) {
      const std::string& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      left = text.substr(0, space);
      if (space != std::string::npos) right = text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else {
      return Invalid(absl::StrCat(where, " is not a pair of tokens"));
    }
    const auto l = ids_.find(left), r = ids_.find(right), m = ids_.find(left + right);
    if (l == ids_.end() || r == ids_.end() || m == ids_.end()) {
      return Invalid(absl::StrCat(where, " '", left, "' and '", right,
                                  "': they or their union are not in the vocabulary"));
    }
    out_.merges.push_back({l->second, r->second, m->second});
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadAdded() {
  const json& added = Member(document_, "added_tokens");
  if (added.is_null()) return absl::OkStatus();
  if (!added.is_array()) return Invalid("'added_tokens' is not a list");
  for (const json& entry : added) {
    const std::string where = absl::StrCat("added_tokens: entry ", out_.added.size());
    const json& content = Member(entry, "content");
    if (!content.is_string()) return Invalid(absl::StrCat(where, " has no 'content'"));
    if (!IsOff(Member(entry, "single_word"))) {
      return Unsupported(absl::StrCat(where, ": single_word"), true, "false");
    }
    AddedToken token;
    token.lstrip = Member(entry, "lstrip") == true;
    token.rstrip = Member(entry, "rstrip") == true;
    SA_ASSIGN_OR_RETURN(token.id, ReadId(Member(entry, "id"), where));
    token.content = content.get<std::string>();
    token.special = Member(entry, "special") == true;
    token.normalized = Member(entry, "normalized") == true;
    SA_RETURN_IF_ERROR(Place(token.content, token.id));
    out_.added.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadPostProcessor(const json& post, int depth) {
  if (post.is_null()) return absl::OkStatus();
  const json& type = Member(post, "type");
  if (type == "ByteLevel") return absl::OkStatus();  // moves offsets only
  if (type == "TemplateProcessing") return ReadTemplate(post);
  if (type == "Sequence" && depth < 4 && Member(post, "processors").is_array()) {
    for (const json& item : Member(post, "processors")) {
      SA_RETURN_IF_ERROR(ReadPostProcessor(item, depth + 1));
    }
    return absl::OkStatus();
  }
  return Unsupported("post_processor", post, "ByteLevel, TemplateProcessing, Sequence, none");
}

absl::Status Reader::ReadTemplate(const json& post) {
  const json& single = Member(post, "single");
  if (!single.is_array()) return Invalid("post_processor: 'single' is not a list");
  bool after = false;
  for (const json& piece : single) {
    if (piece.is_object() && piece.contains("Sequence")) {
      after = true;
      continue;
    }
    const json& name = Member(Member(piece, "SpecialToken"), "id");
    const json& ids = name.is_string() ? Member(Member(Member(post, "special_tokens"),
                                                       name.get_ref<const std::string&>().c_str()),
                                                "ids")
                                       : name;
    if (!ids.is_array()) {
      return Invalid(absl::StrCat("post_processor: ", piece.dump().substr(0, 120),
                                  " is not in 'special_tokens'"));
    }
    for (const json& id : ids) {
      SA_ASSIGN_OR_RETURN(const int32_t number, ReadId(id, "post_processor"));
      (after ? out_.suffix : out_.prefix).push_back(number);
    }
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadDecoderStep(const json& step) {
  const json& type = Member(step, "type");
  const json& content = Member(step, "content");
  if (type == "Fuse") return absl::OkStatus();
  if (type == "ByteFallback") {
    if (out_.byte_fallback) return absl::OkStatus();
    return Unsupported("decoder", step, "ByteFallback where the model falls back to bytes");
  }
  if (type == "Replace") {
    const json& from = Member(Member(step, "pattern"), "String");
    if (from.is_string() && !from.get_ref<const std::string&>().empty() && content.is_string()) {
      out_.decoder_replace.emplace_back(from.get<std::string>(), content.get<std::string>());
      return absl::OkStatus();
    }
  }
  if (type == "Strip" && content == " " && Member(step, "start") == 1 &&
      Member(step, "stop") == 0) {
    out_.decoder_strip = true;
    return absl::OkStatus();
  }
  if (type == "Metaspace") {
    const json& space = Member(step, "replacement");
    if (space.is_string() && !space.get_ref<const std::string&>().empty()) {
      out_.decoder_replace.emplace_back(space.get<std::string>(), " ");
      const json& scheme = Member(step, "prepend_scheme");
      out_.decoder_strip =
          scheme.is_null() ? Member(step, "add_prefix_space") != false : scheme != "never";
      return absl::OkStatus();
    }
  }
  return Unsupported("decoder", step,
                     "Replace of a string, ByteFallback, Fuse, Strip of one space at the start, "
                     "Metaspace, Sequence; ByteLevel");
}

absl::Status Reader::ReadDecoder() {
  const json& decoder = Member(document_, "decoder");
  const json& type = Member(decoder, "type");
  if (out_.kind == TokenizerKind::kByteLevelBpe) {
    if (type == "ByteLevel") return absl::OkStatus();
    return Unsupported("decoder", decoder, "ByteLevel");
  }
  if (decoder.is_null()) return absl::OkStatus();
  if (type != "Sequence") return ReadDecoderStep(decoder);
  const json& steps = Member(decoder, "decoders");
  if (!steps.is_array()) return Invalid("decoder: 'decoders' is not a list");
  for (const json& step : steps) SA_RETURN_IF_ERROR(ReadDecoderStep(step));
  return absl::OkStatus();
}

absl::Status Reader::ReadExtension() {
  const json& extension = Member(document_, "shiftadd");
  const json& chat = Member(extension, "chat_template");
  if (chat.is_string()) out_.chat_template = chat.get<std::string>();
  const json& bos = Member(extension, "bos");
  if (!bos.is_null()) {
    SA_ASSIGN_OR_RETURN(out_.bos, ReadId(bos, "shiftadd.bos"));
  }
  const json& eos = Member(extension, "eos");
  if (eos.is_array() && !eos.empty()) {
    SA_ASSIGN_OR_RETURN(out_.eos, ReadId(eos[0], "shiftadd.eos"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerDocument> ReadTokenizerDocument(absl::string_view text) {
  SA_ASSIGN_OR_RETURN(const json document, ParseJsonObject(text, "tokenizer"));
  return Reader(document).Read();
}

}  // namespace shiftadd
