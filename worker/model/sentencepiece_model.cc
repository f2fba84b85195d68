#include "worker/model/sentencepiece_model.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/utf8.h"
#include "worker/tensor/json_text.h"

namespace shiftadd {
namespace {

using nlohmann::json;

constexpr char kSpace[] = "\u2581";

// The wire format of protocol buffers, as far as a tokenizer.model needs it.
class Wire {
 public:
  explicit Wire(absl::string_view bytes) : bytes_(bytes) {}

  bool done() const { return bytes_.empty(); }
  // The next field: its number and what it holds. False if the bytes are broken.
  bool Next(uint64_t* field) {
    uint64_t tag = 0;
    if (!Varint(&tag)) return false;
    *field = tag >> 3;
    number_ = 0;
    text_ = {};
    switch (tag & 7) {
      case 0:
        return Varint(&number_);
      case 1:
        return Take(8, &text_);
      case 2: {
        uint64_t size = 0;
        return Varint(&size) && Take(size, &text_);
      }
      case 5:
        return Take(4, &text_);
      default:
        return false;
    }
  }
  uint64_t number() const { return number_; }
  absl::string_view text() const { return text_; }
  float real() const {
    float value = 0;
    if (text_.size() == sizeof(value)) std::memcpy(&value, text_.data(), sizeof(value));
    return value;
  }

 private:
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) return false;
      const uint8_t byte = static_cast<uint8_t>(bytes_[0]);
      bytes_.remove_prefix(1);
      *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  }
  bool Take(uint64_t size, absl::string_view* out) {
    if (size > bytes_.size()) return false;
    *out = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return true;
  }

  absl::string_view bytes_, text_;
  uint64_t number_ = 0;
};

absl::Status Broken(const std::string& file) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": is no SentencePiece model"));
}

absl::Status ReadPiece(Wire wire, const std::string& file, SentencePieceModel* out) {
  SentencePieceModel::Piece piece;
  for (uint64_t field = 0; !wire.done();) {
    if (!wire.Next(&field)) return Broken(file);
    if (field == 1) piece.text = std::string(wire.text());
    if (field == 2) piece.score = wire.real();
    if (field == 3) piece.type = static_cast<PieceType>(wire.number());
  }
  if (!IsValidUtf8(piece.text)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": piece ", out->pieces.size(), " is not UTF-8"));
  }
  out->pieces.push_back(std::move(piece));
  return absl::OkStatus();
}

absl::Status ReadTrainer(Wire wire, const std::string& file, SentencePieceModel* out) {
  uint64_t type = 1;
  for (uint64_t field = 0; !wire.done();) {
    if (!wire.Next(&field)) return Broken(file);
    if (field == 3) type = wire.number();
  }
  if (type != 1 && type != 2) {
    return absl::UnimplementedError(absl::StrCat(file, ": trainer_spec.model_type is ", type,
                                                 ": not supported, supported are: 1 (Unigram), 2 "
                                                 "(BPE)"));
  }
  out->bpe = type == 2;
  return absl::OkStatus();
}

absl::Status ReadNormalizer(Wire wire, const std::string& file, SentencePieceModel* out) {
  bool escape = true;
  out->folds_spaces = true;
  for (uint64_t field = 0; !wire.done();) {
    if (!wire.Next(&field)) return Broken(file);
    if (field == 2) out->character_map = std::string(wire.text());
    if (field == 3) out->add_space_prefix = wire.number() != 0;
    if (field == 4) out->folds_spaces = wire.number() != 0;
    if (field == 5) escape = wire.number() != 0;
  }
  if (escape) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(file, ": normalizer_spec.escape_whitespaces: false is not supported"));
}

// Where characters begin inside a piece, without its start.
std::vector<size_t> Cuts(absl::string_view text) {
  std::vector<size_t> cuts;
  bool incomplete = false;
  for (size_t i = std::max<size_t>(1, Utf8CharacterAt(text, 0, &incomplete)); i < text.size();
       i += std::max<size_t>(1, Utf8CharacterAt(text, i, &incomplete))) {
    cuts.push_back(i);
  }
  return cuts;
}

size_t Characters(absl::string_view text) { return text.empty() ? 0 : Cuts(text).size() + 1; }

json Merges(const SentencePieceModel& model, const absl::flat_hash_map<std::string, size_t>& ids) {
  struct Merge {
    float score;
    size_t left_length, right_length;
    size_t left, right;
  };
  std::vector<Merge> merges;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    if (piece.type == PieceType::kUnused || piece.text.empty()) continue;
    const size_t first = merges.size();
    for (const size_t cut : Cuts(piece.text)) {
      const auto left = ids.find(piece.text.substr(0, cut)),
                 right = ids.find(piece.text.substr(cut));
      if (left == ids.end() || right == ids.end()) continue;
      merges.push_back({piece.score, Characters(left->first), Characters(right->first),
                        left->second, right->second});
    }
    std::sort(merges.begin() + static_cast<int64_t>(first), merges.end(),
              [](const Merge& a, const Merge& b) {
                return std::tie(a.left, a.right) < std::tie(b.left, b.right);
              });
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tie(a.score, a.left_length, a.right_length) >
           std::tie(b.score, b.left_length, b.right_length);
  });
  json out = json::array();
  for (const Merge& m : merges) {
    out.push_back({model.pieces[m.left].text, model.pieces[m.right].text});
  }
  return out;
}

json Replace(const std::string& from, const std::string& to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

json Sequence(const char* name, json steps) {
  return {{"type", "Sequence"}, {name, std::move(steps)}};
}

// What is done to characters before text is cut, and the words that spaces make.
struct TextForm {
  json normalizer, pre_tokenizer;
};

// A prefix and spaces are written by the normalizer; a text is one word.
TextForm PlainForm(bool prefix) {
  json spaces = Replace(" ", kSpace);
  if (!prefix) return {std::move(spaces), nullptr};
  json prepend = {{"type", "Prepend"}, {"prepend", kSpace}};
  return {Sequence("normalizers", {std::move(prepend), std::move(spaces)}), nullptr};
}

TextForm ChangingForm(const SentencePieceModel& model) {
  json steps = json::array();
  if (!model.character_map.empty()) {
    steps.push_back({{"type", "Precompiled"},
                     {"precompiled_charsmap", absl::Base64Escape(model.character_map)}});
  }
  if (model.folds_spaces) {
    steps.push_back({{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}});
    steps.push_back({{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", kSpace}});
  }
  json words = {{"type", "Metaspace"},
                {"replacement", kSpace},
                {"prepend_scheme", model.add_space_prefix ? "always" : "never"},
                {"split", true}};
  return {Sequence("normalizers", std::move(steps)), std::move(words)};
}

json EmptyDocument(const SentencePieceModel& model, bool bytes) {
  TextForm form = model.character_map.empty() && !model.folds_spaces
                      ? PlainForm(model.add_space_prefix)
                      : ChangingForm(model);
  json steps = json::array({Replace(kSpace, " ")});
  if (bytes) steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (model.add_space_prefix) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", json::array()},
          {"normalizer", std::move(form.normalizer)},
          {"pre_tokenizer", std::move(form.pre_tokenizer)},
          {"post_processor", nullptr},
          {"decoder", Sequence("decoders", std::move(steps))},
          {"model", json::object()}};
}

}  // namespace

absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(absl::string_view bytes,
                                                           const std::string& file) {
  SentencePieceModel out;
  Wire wire(bytes);
  for (uint64_t field = 0; !wire.done();) {
    if (!wire.Next(&field)) return Broken(file);
    if (field == 1) SA_RETURN_IF_ERROR(ReadPiece(Wire(wire.text()), file, &out));
    if (field == 2) SA_RETURN_IF_ERROR(ReadTrainer(Wire(wire.text()), file, &out));
    if (field == 3) SA_RETURN_IF_ERROR(ReadNormalizer(Wire(wire.text()), file, &out));
  }
  if (out.pieces.empty()) return Broken(file);
  return out;
}

absl::StatusOr<json> SentencePieceTokenizerJson(const SentencePieceModel& model,
                                                const std::string& file) {
  absl::flat_hash_map<std::string, size_t> ids;
  bool bytes = false;
  int64_t unknown = -1;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const SentencePieceModel::Piece& piece = model.pieces[i];
    if (piece.type == PieceType::kByte) bytes = true;
    if (piece.type == PieceType::kUnknown && unknown < 0) unknown = static_cast<int64_t>(i);
    if (piece.type == PieceType::kUnused && model.bpe) continue;
    if (!ids.emplace(piece.text, i).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": piece ", i, " '", piece.text, "' stands twice"));
    }
  }
  json document = EmptyDocument(model, bytes);
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const SentencePieceModel::Piece& piece = model.pieces[i];
    if (piece.type != PieceType::kUnknown && piece.type != PieceType::kControl &&
        piece.type != PieceType::kUserDefined) {
      continue;
    }
    document["added_tokens"].push_back({{"id", i},
                                        {"content", piece.text},
                                        {"single_word", false},
                                        {"lstrip", false},
                                        {"rstrip", false},
                                        {"normalized", false},
                                        {"special", piece.type != PieceType::kUserDefined}});
  }
  json& out = document["model"];
  if (!model.bpe) {
    out = {{"type", "Unigram"}, {"byte_fallback", bytes}};
    out["unk_id"] = unknown < 0 ? json() : json(unknown);
    json& vocab = out["vocab"] = json::array();
    for (const SentencePieceModel::Piece& piece : model.pieces) {
      vocab.push_back({piece.text, piece.score});
    }
    return document;
  }
  json vocab = json::object();
  for (const auto& [text, id] : ids) vocab[text] = id;
  out = {{"type", "BPE"},
         {"dropout", nullptr},
         {"unk_token", unknown < 0 ? json() : json(model.pieces[unknown].text)},
         {"continuing_subword_prefix", nullptr},
         {"end_of_word_suffix", nullptr},
         {"fuse_unk", true},
         {"byte_fallback", bytes},
         {"ignore_merges", false},
         {"vocab", std::move(vocab)},
         {"merges", Merges(model, ids)}};
  return document;
}

json BosTemplate(const std::string& bos, int64_t id) {
  const json special = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json b = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  const json special_b = {{"SpecialToken", {{"id", bos}, {"type_id", 1}}}};
  json tokens = json::object();
  tokens[bos] = {{"id", bos}, {"ids", json::array({id})}, {"tokens", json::array({bos})}};
  return {{"type", "TemplateProcessing"},
          {"single", json::array({special, a})},
          {"pair", json::array({special, a, special_b, b})},
          {"special_tokens", tokens}};
}

}  // namespace shiftadd
