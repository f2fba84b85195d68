#include "worker/export/gguf_tokenizer.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/gguf_tokenizer.h"
#include "worker/model/sentencepiece_model.h"
#include "worker/model/tokenizer.h"

namespace shiftadd {
namespace {

using nlohmann::json;

// Of a token that no merge makes: it is joined last of all.
constexpr float kNeverMerged = -1e6f;

// Texts and kinds of the tokens by id; ids that the tokenizer leaves free get a name of their own.
struct Tokens {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
};

int32_t TypeOf(PieceType type) { return static_cast<int32_t>(type); }

absl::StatusOr<Tokens> TokensOf(const json& tokenizer, int64_t vocab) {
  Tokens tokens;
  for (int64_t id = 0; id < vocab; ++id) tokens.texts.push_back(absl::StrCat("[PAD", id, "]"));
  tokens.types.assign(static_cast<size_t>(vocab), TypeOf(PieceType::kUnused));
  const auto put = [&](const std::string& text, const json& id, PieceType type) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: token '", text, "' has id ",
                                                     id.dump(), ", expected one below ", vocab));
    }
    tokens.texts[id.get<size_t>()] = text;
    tokens.types[id.get<size_t>()] = TypeOf(type);
    return absl::OkStatus();
  };
  for (const auto& [text, id] : tokenizer.at("model").at("vocab").items()) {
    SA_RETURN_IF_ERROR(put(text, id, PieceType::kNormal));
  }
  for (const json& token : tokenizer.value("added_tokens", json::array())) {
    SA_RETURN_IF_ERROR(
        put(token.at("content").get<std::string>(), token.at("id"),
            token.value("special", false) ? PieceType::kControl : PieceType::kUserDefined));
  }
  return tokens;
}

// The two tokens that a merge joins.
std::pair<std::string, std::string> PairOf(const json& merge) {
  if (merge.is_array()) return {merge.at(0).get<std::string>(), merge.at(1).get<std::string>()};
  const std::string text = merge.get<std::string>();
  const size_t space = text.find(' ', 1);
  return {text.substr(0, space), space == std::string::npos ? "" : text.substr(space + 1)};
}

absl::Status AddByteLevel(const json& tokenizer, const Tokens& tokens, GgufHeader* header) {
  SA_ASSIGN_OR_RETURN(const std::string pre, GgufPreTokenizerName(tokenizer));
  header->Add("tokenizer.ggml.model", absl::string_view("gpt2"));
  header->Add("tokenizer.ggml.pre", absl::string_view(pre));
  header->Add("tokenizer.ggml.tokens", tokens.texts);
  header->Add("tokenizer.ggml.token_type", tokens.types);
  std::vector<std::string> merges;
  for (const json& merge : tokenizer.at("model").at("merges")) {
    const auto [left, right] = PairOf(merge);
    merges.push_back(absl::StrCat(left, " ", right));
  }
  header->Add("tokenizer.ggml.merges", merges);
  return absl::OkStatus();
}

// True if a text gets a space before it: said in the normalizer or in the pre-tokenizer.
bool AddsSpace(const json& part) {
  if (!part.is_structured()) return false;
  if (part.is_object() && part.value("type", json()) == "Prepend") return true;
  if (part.is_object() && part.value("type", json()) == "Metaspace") {
    return part.value("prepend_scheme", json("always")) != "never" &&
           part.value("add_prefix_space", true);
  }
  return std::any_of(part.begin(), part.end(), AddsSpace);
}

bool IsByte(const std::string& text) {
  return text.size() == 6 && absl::StartsWith(text, "<0x") && text[5] == '>';
}

// SentencePiece joins the pair of the highest score first, so a token's score is its merges' place.
absl::Status AddSentencePiece(const json& tokenizer, Tokens tokens, GgufHeader* header) {
  const json& model = tokenizer.at("model");
  std::map<std::string, float> rank;
  for (const json& merge : model.at("merges")) {
    const auto [left, right] = PairOf(merge);
    rank.emplace(left + right, -static_cast<float>(rank.size()) - 1);
  }
  const json unknown = model.value("unk_token", json());
  std::vector<float> scores(tokens.texts.size(), kNeverMerged);
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    const std::string& text = tokens.texts[id];
    if (const auto found = rank.find(text); found != rank.end()) scores[id] = found->second;
    if (IsByte(text)) tokens.types[id] = TypeOf(PieceType::kByte);
    if (unknown != text) continue;
    tokens.types[id] = TypeOf(PieceType::kUnknown);
    header->Add("tokenizer.ggml.unknown_token_id", static_cast<uint32_t>(id));
  }
  header->Add("tokenizer.ggml.model", absl::string_view("llama"));
  header->Add("tokenizer.ggml.pre", absl::string_view("default"));
  header->Add("tokenizer.ggml.tokens", tokens.texts);
  header->Add("tokenizer.ggml.scores", scores);
  header->Add("tokenizer.ggml.token_type", tokens.types);
  header->Add("tokenizer.ggml.add_space_prefix",
              AddsSpace(tokenizer.value("normalizer", json())) ||
                  AddsSpace(tokenizer.value("pre_tokenizer", json())));
  return absl::OkStatus();
}

// What tokenizers differ in: spaces, digits, case, scripts, bytes, lines, contractions.
std::vector<std::string> Texts() {
  return {"Hello, world",
          " a  b   c ",
          "I'm sure they've said it's 12345 times, DON'T YOU?",
          "tabs\tand\nlines\r\n\n  end\n",
          "3.14159 x 10^-7 = 0.000000314",
          "def f(x):\n    return x ** 2  # square\n",
          "日本語のテキスト、 中文文本。 한국어",
          "Ünïcödé ﬁne e\xcc\x81 — “quotes” … €",
          "😀🏽‍🚀 \xf0\x9f\x87\xa9\xf0\x9f\x87\xaa",
          "Привет, мир! Γειά σου Κόσμε. שלום עולם",
          "a",
          " ",
          "\n",
          "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
          "https://example.org/path?query=1&other=%20#part"};
}

}  // namespace

absl::Status AddGgufTokenizer(const json& tokenizer, const ArchitectureSpec& s,
                              GgufHeader* header) {
  const json model = tokenizer.value("model", json::object());
  SA_ASSIGN_OR_RETURN(Tokens tokens, TokensOf(tokenizer, s.vocab));
  if (model.value("type", json()) == "BPE" && model.value("byte_fallback", false)) {
    SA_RETURN_IF_ERROR(AddSentencePiece(tokenizer, std::move(tokens), header));
  } else {
    SA_RETURN_IF_ERROR(AddByteLevel(tokenizer, tokens, header));
  }
  const auto id = [&](const char* key, int64_t value) {
    if (value >= 0) header->Add(key, static_cast<uint32_t>(value));
  };
  id("tokenizer.ggml.bos_token_id", s.bos_token);
  if (!s.eos_tokens.empty()) id("tokenizer.ggml.eos_token_id", s.eos_tokens[0]);
  if (s.eos_tokens.size() > 1) id("tokenizer.ggml.eot_token_id", s.eos_tokens[1]);
  header->Add("tokenizer.ggml.add_bos_token", s.add_bos);
  const json ours = tokenizer.value("shiftadd", json::object());
  const json chat = ours.value("chat_template", json());
  if (chat.is_string()) {
    header->Add("tokenizer.chat_template", absl::string_view(chat.get_ref<const std::string&>()));
  }
  return absl::OkStatus();
}

absl::Status CheckSameTokens(const std::string& tokenizer, const std::string& read_back) {
  SA_ASSIGN_OR_RETURN(const auto ours, Tokenizer::FromJson(tokenizer));
  SA_ASSIGN_OR_RETURN(const auto theirs, Tokenizer::FromJson(read_back));
  for (const std::string& text : Texts()) {
    if (ours->Encode(text, false, false) == theirs->Encode(text, false, false)) continue;
    return absl::UnimplementedError(
        absl::StrCat("gguf: the tokenizer cannot be written: its tokens of ", json(text).dump(),
                     " would differ"));
  }
  return absl::OkStatus();
}

}  // namespace shiftadd
