#include "worker/model/testing/tiny_tokenizer.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "worker/model/byte_level.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;

// Words first, as a real vocabulary has them, then all pairs of letters, with and without a space
// before.
std::vector<std::pair<std::string, std::string>> AllMerges() {
  const std::string space = BytesToText(" ");
  std::vector<std::pair<std::string, std::string>> merges = {
      {space, "t"}, {"h", "e"},  {space, "a"},   {"i", "n"},          {"r", "e"},
      {"o", "n"},   {"e", "r"},  {space, space}, {space + "t", "he"}, {"a", "t"},
      {space, "s"}, {"in", "g"}, {"a", "n"},     {"an", "d"},         {"1", "2"},
  };
  std::set<std::string> made;
  for (const auto& [a, b] : merges) made.insert(a + b);
  const auto add = [&](const std::string& a, const std::string& b) {
    if (made.insert(a + b).second) merges.emplace_back(a, b);
  };
  for (char b = 'a'; b <= 'z'; ++b) add(space, std::string(1, b));
  for (char a = 'a'; a <= 'z'; ++a) {
    for (char b = 'a'; b <= 'z'; ++b) add(std::string(1, a), std::string(1, b));
  }
  for (char a = 'a'; a <= 'z'; ++a) {
    for (char b = 'a'; b <= 'z'; ++b) add(space + std::string(1, a), std::string(1, b));
  }
  return merges;
}

}  // namespace

TinyTokenizer MakeTinyTokenizer(int64_t vocab) {
  TinyTokenizer t;
  t.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (int b = 0; b < 256; ++b)
    t.tokens.push_back(BytesToText(std::string(1, static_cast<char>(b))));
  for (auto& merge : AllMerges()) {
    if (static_cast<int64_t>(t.tokens.size()) >= vocab) break;
    t.tokens.push_back(merge.first + merge.second);
    t.merges.push_back(std::move(merge));
  }
  t.chat_template =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
      "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt "
      "%}{{ '<|im_start|>assistant\n' }}{% endif %}";
  return t;
}

std::string TinyTokenizerJson(const TinyTokenizer& t, bool add_bos) {
  json added = json::array();
  for (int id = 0; id < 3; ++id) {
    added.push_back({{"id", id},
                     {"content", t.tokens[static_cast<size_t>(id)]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  json vocab = json::object();
  for (size_t id = 0; id < t.tokens.size(); ++id) vocab[t.tokens[id]] = id;
  json merges = json::array();
  for (const auto& [a, b] : t.merges) merges.push_back(absl::StrCat(a, " ", b));
  json document = json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false}
  })");
  if (add_bos) {
    document["post_processor"] = json::parse(R"({
      "type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
               {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "<|endoftext|>", "type_id": 1}},
               {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0],
                                           "tokens": ["<|endoftext|>"]}}})");
  }
  document["added_tokens"] = std::move(added);
  document["model"]["vocab"] = std::move(vocab);
  document["model"]["merges"] = std::move(merges);
  return document.dump();
}

}  // namespace shiftadd::testing
