// The export that llama.cpp loads.
#include <algorithm>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/export/export.h"
#include "worker/export/gguf_header.h"
#include "worker/export/output_file.h"
#include "worker/model/gguf_tokenizer.h"

namespace shiftadd {
namespace {

using nlohmann::json;

constexpr uint32_t kMostlyF16 = 1;  // general.file_type
// tokenizer.ggml.token_type
constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

void AddArchitecture(const ArchitectureSpec& s, GgufHeader* header) {
  const auto number = [&](const char* key, int64_t value) {
    header->Add(absl::StrCat("llama.", key), static_cast<uint32_t>(value));
  };
  number("vocab_size", s.vocab);
  number("context_length", s.context);
  number("embedding_length", s.hidden);
  number("block_count", s.blocks);
  number("feed_forward_length", s.intermediate);
  number("rope.dimension_count", s.head_dim);
  number("attention.head_count", s.heads);
  number("attention.head_count_kv", s.kv_heads);
  number("attention.key_length", s.head_dim);
  number("attention.value_length", s.head_dim);
  header->Add("llama.attention.layer_norm_rms_epsilon", static_cast<float>(s.norm_eps));
  header->Add("llama.rope.freq_base", static_cast<float>(s.rope_theta));
  if (s.rope_scaling == RopeScaling::kLinear) {
    header->Add("llama.rope.scaling.type", absl::string_view("linear"));
    header->Add("llama.rope.scaling.factor", static_cast<float>(s.rope_factor));
  }
}

// Texts and kinds of the tokens by id; ids that the tokenizer leaves free get a name of their own.
struct Tokens {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
};

absl::StatusOr<Tokens> TokensOf(const json& tokenizer, int64_t vocab) {
  Tokens tokens;
  for (int64_t id = 0; id < vocab; ++id) tokens.texts.push_back(absl::StrCat("[PAD", id, "]"));
  tokens.types.assign(static_cast<size_t>(vocab), kUnused);
  const auto put = [&](const std::string& text, const json& id, int32_t type) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: token '", text, "' has id ",
                                                     id.dump(), ", expected one below ", vocab));
    }
    tokens.texts[id.get<size_t>()] = text;
    tokens.types[id.get<size_t>()] = type;
    return absl::OkStatus();
  };
  for (const auto& [text, id] : tokenizer.at("model").at("vocab").items()) {
    SA_RETURN_IF_ERROR(put(text, id, kNormal));
  }
  for (const json& token : tokenizer.value("added_tokens", json::array())) {
    SA_RETURN_IF_ERROR(put(token.at("content").get<std::string>(), token.at("id"),
                           token.value("special", false) ? kControl : kUserDefined));
  }
  return tokens;
}

std::vector<std::string> MergesOf(const json& tokenizer) {
  std::vector<std::string> merges;
  for (const json& merge : tokenizer.at("model").at("merges")) {
    merges.push_back(merge.is_array() ? absl::StrCat(merge.at(0).get<std::string>(), " ",
                                                     merge.at(1).get<std::string>())
                                      : merge.get<std::string>());
  }
  return merges;
}

absl::Status AddTokenizer(const json& tokenizer, const ArchitectureSpec& s, GgufHeader* header) {
  SA_ASSIGN_OR_RETURN(const std::string pre, GgufPreTokenizerName(tokenizer));
  SA_ASSIGN_OR_RETURN(const Tokens tokens, TokensOf(tokenizer, s.vocab));
  header->Add("tokenizer.ggml.model", absl::string_view("gpt2"));
  header->Add("tokenizer.ggml.pre", absl::string_view(pre));
  header->Add("tokenizer.ggml.tokens", tokens.texts);
  header->Add("tokenizer.ggml.token_type", tokens.types);
  header->Add("tokenizer.ggml.merges", MergesOf(tokenizer));
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

// What divides the frequencies, [head_dim / 2]; empty where a pair says it all.
std::vector<float> RopeFactors(const ArchitectureSpec& s) {
  std::vector<float> factors;
  if (s.rope_scaling != RopeScaling::kLlama3) return factors;
  ArchitectureSpec plain = s;
  plain.rope_scaling = RopeScaling::kNone;
  const std::vector<double> base = RopeInverseFrequencies(plain),
                            scaled = RopeInverseFrequencies(s);
  for (size_t i = 0; i < base.size(); ++i) {
    factors.push_back(static_cast<float>(base[i] / scaled[i]));
  }
  return factors;
}

bool IsHalf(const FamilyTensor& tensor) { return tensor.shape.size() > 1; }

}  // namespace

absl::Status WriteGguf(PackageWeights* weights, const std::string& folder) {
  const ArchitectureSpec& spec = weights->spec();
  if (spec.family != "llama") {
    return absl::UnimplementedError(absl::StrCat("gguf: models of the family ", spec.family,
                                                 " cannot be written yet, expected llama"));
  }
  GgufHeader header;
  header.Add("general.architecture", absl::string_view("llama"));
  header.Add("general.name", absl::string_view(weights->name()));
  header.Add("general.file_type", kMostlyF16);
  AddArchitecture(spec, &header);
  SA_RETURN_IF_ERROR(AddTokenizer(weights->tokenizer(), spec, &header));
  const std::vector<FamilyTensor> tensors = weights->family().tensors(spec);
  const std::vector<float> factors = RopeFactors(spec);
  if (!factors.empty()) header.AddTensor("rope_freqs.weight", {spec.head_dim / 2}, false);
  for (const FamilyTensor& t : tensors) header.AddTensor(t.gguf, t.shape, IsHalf(t));

  OutputFile file(folder + "/model-f16.gguf");
  SA_RETURN_IF_ERROR(file.Write(header.Finish()));
  SA_RETURN_IF_ERROR(file.WriteFloats(factors));
  SA_RETURN_IF_ERROR(file.Pad(kGgufAlignment));
  for (const FamilyTensor& t : tensors) {
    SA_RETURN_IF_ERROR(weights->Read(t, /*interleaved=*/true, [&](const std::vector<float>& rows) {
      return IsHalf(t) ? file.WriteHalves(t.canonical, rows) : file.WriteFloats(rows);
    }));
    SA_RETURN_IF_ERROR(file.Pad(kGgufAlignment));
  }
  return file.Close();
}

}  // namespace shiftadd
