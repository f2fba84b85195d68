#include "worker/model/tokenizer.h"

#include <array>
#include <deque>
#include <map>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "services/base/status_macros.h"
#include "worker/model/bpe.h"
#include "worker/model/byte_level.h"
#include "worker/model/chat_template.h"
#include "worker/model/tokenizer_document.h"
#include "worker/model/unigram.h"
#include "worker/model/utf8.h"

namespace shiftadd {
namespace {

// Words repeat: the tokens of short ones are kept while one text is encoded.
constexpr size_t kMaxCachedWord = 64;
constexpr size_t kMaxCachedWords = size_t{1} << 20;

// The byte that "<0x0A>" stands for, or -1.
int ByteOf(absl::string_view token) {
  if (token.size() != 6 || !absl::StartsWith(token, "<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    if (!absl::ascii_isxdigit(c)) return -1;
    value = 16 * value + (absl::ascii_isdigit(c) ? c - '0' : absl::ascii_toupper(c) - 'A' + 10);
  }
  return value;
}

class TextTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerDocument document) {
    auto out = std::unique_ptr<TextTokenizer>(new TextTokenizer(std::move(document)));
    for (const std::vector<int32_t>* ids : {&out->document_.prefix, &out->document_.suffix}) {
      for (int32_t id : *ids) {
        if (id < out->vocab_size()) continue;
        return absl::InvalidArgumentError(
            absl::StrCat("tokenizer: post_processor: token ", id, " is not in the vocabulary"));
      }
    }
    return out;
  }

  std::vector<int32_t> Encode(absl::string_view text, bool add_special,
                              bool parse_special) const override;
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_.size()); }
  bool IsSpecial(int32_t id) const override {
    return id >= 0 && id < vocab_size() && special_[static_cast<size_t>(id)];
  }
  absl::StatusOr<std::string> RenderChat(const std::vector<ChatMessage>& messages,
                                         bool add_generation_prompt,
                                         const nlohmann::ordered_json& variables) const override;

 private:
  explicit TextTokenizer(TokenizerDocument document);
  class Encoder;

  void AddByteLevel();
  void AddCharacterLevel();
  void EncodeWord(absl::string_view word, std::vector<int32_t>* out) const;

  TokenizerDocument document_;
  std::vector<std::string> bytes_;  // by id; empty: no such token
  std::vector<bool> special_;
  Bpe bpe_;
  Unigram unigram_;
  AddedTokenMatcher raw_, normalized_;
  absl::StatusOr<ChatTemplate> chat_;
};

TextTokenizer::TextTokenizer(TokenizerDocument document)
    : document_(std::move(document)),
      bytes_(document_.vocab.size()),
      special_(document_.vocab.size(), false),
      chat_(absl::FailedPreconditionError("the model has no chat template")) {
  if (document_.kind == TokenizerKind::kByteLevelBpe) {
    AddByteLevel();
  } else {
    AddCharacterLevel();
  }
  std::vector<AddedToken> raw, normalized;
  for (const AddedToken& token : document_.added) {
    AddedToken sought = token;
    if (token.normalized) sought.content = document_.normalizer.Run(token.content);
    // One in its normal form is decoded from that: what was in front of it went into it.
    std::string& bytes = bytes_[static_cast<size_t>(token.id)] = sought.content;
    for (const auto& [from, to] : document_.decoder_replace) {
      bytes = absl::StrReplaceAll(bytes, {{from, to}});
    }
    special_[static_cast<size_t>(token.id)] = token.special;
    (token.normalized ? normalized : raw).push_back(std::move(sought));
  }
  raw_ = AddedTokenMatcher(std::move(raw));
  normalized_ = AddedTokenMatcher(std::move(normalized));
  for (const auto& [left, right, merged] : document_.merges) bpe_.AddMerge(left, right, merged);
  bpe_.SetIgnoreMerges(document_.ignore_merges);
  bpe_.SetUnknown(document_.unknown);
  if (document_.chat_template.has_value()) {
    chat_ = ChatTemplate::Parse(*document_.chat_template);
  }
  document_.vocab.clear();  // bytes_ and bpe_ hold what is needed
  document_.merges.clear();
}

void TextTokenizer::AddByteLevel() {
  for (size_t id = 0; id < bytes_.size(); ++id) {
    if (!document_.vocab[id].has_value()) continue;
    const std::string& text = *document_.vocab[id];
    if (!TextToBytes(text, &bytes_[id])) {
      bytes_[id] = text;  // outside of the byte alphabet: stands for itself
    } else {
      bpe_.AddToken(bytes_[id], static_cast<int32_t>(id));
    }
  }
}

void TextTokenizer::AddCharacterLevel() {
  std::array<int32_t, 256> fallback;
  fallback.fill(-1);
  for (size_t id = 0; id < bytes_.size(); ++id) {
    if (!document_.vocab[id].has_value()) continue;
    const std::string& text = *document_.vocab[id];
    const int32_t token = static_cast<int32_t>(id);
    if (document_.kind == TokenizerKind::kUnigram) {
      if (id < document_.scores.size()) unigram_.AddToken(text, token, document_.scores[id]);
    } else {
      bpe_.AddToken(text, token);
    }
    bytes_[id] = text;
    for (const auto& [from, to] : document_.decoder_replace) {
      bytes_[id] = absl::StrReplaceAll(bytes_[id], {{from, to}});
    }
    const int byte = document_.byte_fallback ? ByteOf(text) : -1;
    if (byte < 0) continue;
    fallback[byte] = token;
    bytes_[id] = std::string(1, static_cast<char>(byte));
  }
  bpe_.SetByteFallback(fallback);
  bpe_.SetFuseUnknown(document_.fuse_unknown);
  unigram_.SetByteFallback(fallback);
  unigram_.SetUnknown(document_.unknown);
}

void TextTokenizer::EncodeWord(absl::string_view word, std::vector<int32_t>* out) const {
  switch (document_.kind) {
    case TokenizerKind::kByteLevelBpe:
      return bpe_.Encode(word, out);
    case TokenizerKind::kBpe:
      return bpe_.EncodeText(word, out);
    case TokenizerKind::kUnigram:
      return unigram_.Encode(word, out);
  }
}

// The state of one Encode call.
class TextTokenizer::Encoder {
 public:
  Encoder(const TextTokenizer& tokenizer, bool parse_special, std::vector<int32_t>* out)
      : t_(tokenizer), parse_special_(parse_special), out_(out) {}

  void Run(absl::string_view text) {
    start_ = text.data();
    t_.raw_.Scan(
        text, parse_special_, [this](absl::string_view part) { Normalize(part); },
        [this](int32_t id) { out_->push_back(id); });
  }

 private:
  void Normalize(absl::string_view text) {
    ForEachUtf8Run(text, [this](absl::string_view run, bool valid) {
      if (!valid) return Words({run});  // one byte
      const bool first = run.data() == start_;
      std::string normal;
      if (!t_.document_.normalizer.empty()) {
        normal = t_.document_.normalizer.Run(run);
        run = normal;
      }
      const char* const begin = run.data();
      t_.normalized_.Scan(
          run, parse_special_,
          [&](absl::string_view part) { PreTokenize(part, first && part.data() == begin); },
          [this](int32_t id) { out_->push_back(id); });
    });
  }

  void PreTokenize(absl::string_view text, bool first) {
    std::deque<std::string> storage;
    std::vector<absl::string_view> words;
    t_.document_.pre_tokenizer->Split(text, &storage, &words, first);
    Words(words);
  }

  void Words(const std::vector<absl::string_view>& words) {
    for (absl::string_view word : words) {
      if (word.size() > kMaxCachedWord) {
        t_.EncodeWord(word, out_);
        continue;
      }
      auto it = cache_.find(word);
      if (it == cache_.end()) {
        if (cache_.size() >= kMaxCachedWords) cache_.clear();
        it = cache_.emplace(word, std::vector<int32_t>()).first;
        t_.EncodeWord(word, &it->second);
      }
      out_->insert(out_->end(), it->second.begin(), it->second.end());
    }
  }

  const TextTokenizer& t_;
  const bool parse_special_;
  std::vector<int32_t>* const out_;
  const char* start_ = nullptr;  // of the whole text
  absl::flat_hash_map<std::string, std::vector<int32_t>> cache_;
};

std::vector<int32_t> TextTokenizer::Encode(absl::string_view text, bool add_special,
                                           bool parse_special) const {
  std::vector<int32_t> ids;
  if (add_special) ids = document_.prefix;
  Encoder(*this, parse_special, &ids).Run(text);
  if (add_special) ids.insert(ids.end(), document_.suffix.begin(), document_.suffix.end());
  return ids;
}

std::string TextTokenizer::Decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string out;
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size() || (skip_special && IsSpecial(id))) continue;
    out += bytes_[static_cast<size_t>(id)];
  }
  if (document_.decoder_strip && ids.size() > 1 && !out.empty() && out[0] == ' ') out.erase(0, 1);
  return out;
}

absl::StatusOr<std::string> TextTokenizer::RenderChat(
    const std::vector<ChatMessage>& messages, bool add_generation_prompt,
    const nlohmann::ordered_json& variables) const {
  if (!chat_.ok()) return chat_.status();
  std::map<std::string, std::string> special;
  const auto add = [&](const char* name, int32_t id) {
    if (id >= 0 && id < vocab_size()) special[name] = bytes_[static_cast<size_t>(id)];
    for (const AddedToken& token : document_.added) {
      if (token.id == id) special[name] = token.content;
    }
  };
  add("bos_token", document_.bos);
  add("eos_token", document_.eos);
  return chat_->Render(messages, add_generation_prompt, special, absl::Now(), variables);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(absl::string_view tokenizer_json) {
  SA_ASSIGN_OR_RETURN(TokenizerDocument document, ReadTokenizerDocument(tokenizer_json));
  return TextTokenizer::Create(std::move(document));
}

}  // namespace shiftadd
