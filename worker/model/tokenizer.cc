#include "worker/model/tokenizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <deque>
#include <map>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/status_macros.h"
#include "worker/model/bpe.h"
#include "worker/model/byte_level.h"
#include "worker/model/chat_template.h"
#include "worker/model/tokenizer_document.h"
#include "worker/model/utf8.h"

namespace shiftadd {
namespace {

// Words repeat: the tokens of short ones are kept while one text is encoded.
constexpr size_t kMaxCachedWord = 64;
constexpr size_t kMaxCachedWords = size_t{1} << 20;

// NFC of valid UTF-8; the text itself if it cannot be computed.
std::string Compose(absl::string_view text) {
  utf8proc_uint8_t* result = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &result, options);
  if (size < 0) return std::string(text);
  std::string out(reinterpret_cast<const char*>(result), static_cast<size_t>(size));
  std::free(result);
  return out;
}

class BpeTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerDocument document) {
    auto out = std::unique_ptr<BpeTokenizer>(new BpeTokenizer(std::move(document)));
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
  explicit BpeTokenizer(TokenizerDocument document);
  class Encoder;

  TokenizerDocument document_;
  std::vector<std::string> bytes_;  // by id; empty: no such token
  std::vector<bool> special_;
  Bpe bpe_;
  AddedTokenMatcher raw_, normalized_;
  absl::StatusOr<ChatTemplate> chat_;
};

BpeTokenizer::BpeTokenizer(TokenizerDocument document)
    : document_(std::move(document)),
      bytes_(document_.vocab.size()),
      special_(document_.vocab.size(), false),
      chat_(absl::FailedPreconditionError("the model has no chat template")) {
  for (size_t id = 0; id < bytes_.size(); ++id) {
    if (!document_.vocab[id].has_value()) continue;
    const std::string& text = *document_.vocab[id];
    if (!TextToBytes(text, &bytes_[id])) {
      bytes_[id] = text;  // outside of the byte alphabet: stands for itself
    } else {
      bpe_.AddToken(bytes_[id], static_cast<int32_t>(id));
    }
  }
  for (const AddedToken& token : document_.added) {
    bytes_[static_cast<size_t>(token.id)] = token.content;
    special_[static_cast<size_t>(token.id)] = token.special;
    (token.normalized ? normalized_ : raw_).Add(token);
  }
  for (const auto& [left, right, merged] : document_.merges) bpe_.AddMerge(left, right, merged);
  bpe_.SetIgnoreMerges(document_.ignore_merges);
  bpe_.SetUnknown(document_.unknown);
  if (document_.chat_template.has_value()) {
    chat_ = ChatTemplate::Parse(*document_.chat_template);
  }
  document_.vocab.clear();  // bytes_ and bpe_ hold what is needed
  document_.merges.clear();
}

// The state of one Encode call.
class BpeTokenizer::Encoder {
 public:
  Encoder(const BpeTokenizer& tokenizer, bool parse_special, std::vector<int32_t>* out)
      : t_(tokenizer), parse_special_(parse_special), out_(out) {}

  void Run(absl::string_view text) {
    t_.raw_.Scan(
        text, parse_special_, [this](absl::string_view part) { Normalize(part); },
        [this](int32_t id) { out_->push_back(id); });
  }

 private:
  void Normalize(absl::string_view text) {
    ForEachUtf8Run(text, [this](absl::string_view run, bool valid) {
      if (!valid) return Words({run});  // one byte
      std::string composed;
      if (t_.document_.nfc) {
        composed = Compose(run);
        run = composed;
      }
      t_.normalized_.Scan(
          run, parse_special_, [this](absl::string_view part) { PreTokenize(part); },
          [this](int32_t id) { out_->push_back(id); });
    });
  }

  void PreTokenize(absl::string_view text) {
    std::deque<std::string> storage;
    std::vector<absl::string_view> words;
    t_.document_.pre_tokenizer->Split(text, &storage, &words);
    Words(words);
  }

  void Words(const std::vector<absl::string_view>& words) {
    for (absl::string_view word : words) {
      if (word.size() > kMaxCachedWord) {
        t_.bpe_.Encode(word, out_);
        continue;
      }
      auto it = cache_.find(word);
      if (it == cache_.end()) {
        if (cache_.size() >= kMaxCachedWords) cache_.clear();
        it = cache_.emplace(word, std::vector<int32_t>()).first;
        t_.bpe_.Encode(word, &it->second);
      }
      out_->insert(out_->end(), it->second.begin(), it->second.end());
    }
  }

  const BpeTokenizer& t_;
  const bool parse_special_;
  std::vector<int32_t>* const out_;
  absl::flat_hash_map<std::string, std::vector<int32_t>> cache_;
};

std::vector<int32_t> BpeTokenizer::Encode(absl::string_view text, bool add_special,
                                          bool parse_special) const {
  std::vector<int32_t> ids;
  if (add_special) ids = document_.prefix;
  Encoder(*this, parse_special, &ids).Run(text);
  if (add_special) ids.insert(ids.end(), document_.suffix.begin(), document_.suffix.end());
  return ids;
}

std::string BpeTokenizer::Decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string out;
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size() || (skip_special && IsSpecial(id))) continue;
    out += bytes_[static_cast<size_t>(id)];
  }
  return out;
}

absl::StatusOr<std::string> BpeTokenizer::RenderChat(
    const std::vector<ChatMessage>& messages, bool add_generation_prompt,
    const nlohmann::ordered_json& variables) const {
  if (!chat_.ok()) return chat_.status();
  std::map<std::string, std::string> special;
  const auto add = [&](const char* name, int32_t id) {
    if (id >= 0 && id < vocab_size()) special[name] = bytes_[static_cast<size_t>(id)];
  };
  add("bos_token", document_.bos);
  add("eos_token", document_.eos);
  return chat_->Render(messages, add_generation_prompt, special, absl::Now(), variables);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(absl::string_view tokenizer_json) {
  SA_ASSIGN_OR_RETURN(TokenizerDocument document, ReadTokenizerDocument(tokenizer_json));
  return BpeTokenizer::Create(std::move(document));
}

}  // namespace shiftadd
