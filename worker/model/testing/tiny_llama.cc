#include "worker/model/testing/tiny_llama.h"

#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/base/status_macros.h"
#include "worker/model/families.h"
#include "worker/model/testing/tiny_tokenizer.h"
#include "worker/tensor/dtype.h"
#include "worker/tensor/mapped_file.h"
#include "worker/tensor/testing/gguf_builder.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;

// splitmix64; sums of twelve uniforms stand for normal numbers, so no library function decides the
// bytes.
class Generator {
 public:
  explicit Generator(uint64_t seed) : state_(seed) {}
  float Normal() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(Next() >> 11) * 0x1p-53;
    return static_cast<float>(sum);
  }

 private:
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

const Family& Llama() { return Families().front(); }

DType StoredType(const FamilyTensor& t, const TinyLlamaOptions& options) {
  return t.shape.size() == 2 ? options.dtype : DType::kF32;
}

float Round(float value, DType dtype) {
  if (dtype == DType::kF16) return HalfToFloat(FloatToHalf(value));
  if (dtype == DType::kBF16) return Bfloat16ToFloat(FloatToBfloat16(value));
  return value;
}

std::string Encode(const std::vector<float>& values, DType dtype) {
  std::string out;
  for (float value : values) {
    if (dtype == DType::kF32) {
      out.append(reinterpret_cast<const char*>(&value), 4);
    } else {
      const uint16_t bits = dtype == DType::kF16 ? FloatToHalf(value) : FloatToBfloat16(value);
      out.append(reinterpret_cast<const char*>(&bits), 2);
    }
  }
  return out;
}

// Matrices keep the scale of their input; the embedding is larger, so that logits are spread.
std::vector<float> RandomTensor(const FamilyTensor& t, DType dtype, Generator* generator) {
  int64_t count = 1;
  for (int64_t d : t.shape) count *= d;
  const bool norm = t.shape.size() == 1 && t.canonical.find(".bias") == std::string::npos;
  const double scale = t.shape.size() == 2 ? 1.5 / std::sqrt(static_cast<double>(t.shape[1])) : 0.1;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    const float noise = static_cast<float>(scale) * generator->Normal();
    value = Round(norm ? 1.0f + noise : noise, dtype);
  }
  return values;
}

absl::Status WriteShards(const std::string& directory, const TinyLlamaOptions& options,
                         const std::vector<FamilyTensor>& plan,
                         const std::map<std::string, std::vector<float>>& weights) {
  std::vector<std::vector<TensorToWrite>> shards(static_cast<size_t>(options.shards));
  std::vector<std::string> bytes;
  bytes.reserve(plan.size());
  json weight_map = json::object();
  const auto file_name = [&](size_t shard) {
    if (options.shards == 1) return std::string("model.safetensors");
    return absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, options.shards);
  };
  for (size_t i = 0; i < plan.size(); ++i) {
    const DType dtype = StoredType(plan[i], options);
    bytes.push_back(Encode(weights.at(plan[i].canonical), dtype));
    const size_t shard = i % shards.size();
    shards[shard].push_back({plan[i].hugging_face, dtype, plan[i].shape, bytes.back()});
    weight_map[plan[i].hugging_face] = file_name(shard);
  }
  for (size_t s = 0; s < shards.size(); ++s) {
    SA_ASSIGN_OR_RETURN(const std::string data, WriteSafetensors(shards[s], {{"format", "pt"}}));
    SA_RETURN_IF_ERROR(WriteFile(absl::StrCat(directory, "/", file_name(s)), data));
  }
  if (options.shards == 1) return absl::OkStatus();
  const json index = {{"metadata", json::object()}, {"weight_map", weight_map}};
  return WriteFile(directory + "/model.safetensors.index.json", index.dump());
}

// Rows (j, j + half) of each head become rows (2j, 2j + 1), as GGUF keeps them.
std::vector<float> Interleave(const std::vector<float>& in, int64_t rows, int64_t heads) {
  const size_t width = in.size() / static_cast<size_t>(rows);
  const size_t head_rows = static_cast<size_t>(rows / heads);
  std::vector<float> out(in.size());
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    const size_t head = row / head_rows, i = row % head_rows, half = head_rows / 2;
    const size_t to = head * head_rows + (i < half ? 2 * i : 2 * (i - half) + 1);
    std::copy_n(in.begin() + static_cast<int64_t>(row * width), width,
                out.begin() + static_cast<int64_t>(to * width));
  }
  return out;
}

void AddGgufSpec(const ArchitectureSpec& s, GgufBuilder* builder) {
  builder->AddString("general.architecture", "llama");
  const auto u32 = [&](const char* key, int64_t value) {
    builder->AddU32(absl::StrCat("llama.", key), static_cast<uint32_t>(value));
  };
  u32("block_count", s.blocks);
  u32("context_length", s.context);
  u32("embedding_length", s.hidden);
  u32("feed_forward_length", s.intermediate);
  u32("attention.head_count", s.heads);
  u32("attention.head_count_kv", s.kv_heads);
  u32("attention.key_length", s.head_dim);
  u32("attention.value_length", s.head_dim);
  u32("rope.dimension_count", s.head_dim);
  u32("vocab_size", s.vocab);
  builder->AddF32("llama.attention.layer_norm_rms_epsilon", static_cast<float>(s.norm_eps));
  builder->AddF32("llama.rope.freq_base", static_cast<float>(s.rope_theta));
  if (s.rope_scaling == RopeScaling::kLinear) {
    builder->AddString("llama.rope.scaling.type", "linear");
    builder->AddF32("llama.rope.scaling.factor", static_cast<float>(s.rope_factor));
  }
  if (s.rope_scaling != RopeScaling::kLlama3) return;
  ArchitectureSpec plain = s;
  plain.rope_scaling = RopeScaling::kNone;
  const std::vector<double> base = RopeInverseFrequencies(plain);
  const std::vector<double> scaled = RopeInverseFrequencies(s);
  std::vector<float> factors;
  for (size_t i = 0; i < base.size(); ++i)
    factors.push_back(static_cast<float>(base[i] / scaled[i]));
  builder->AddTensor("rope_freqs.weight", 0, {s.head_dim / 2}, Encode(factors, DType::kF32));
}

void AddGgufTokenizer(const ArchitectureSpec& s, GgufBuilder* builder) {
  const TinyTokenizer t = MakeTinyTokenizer(s.vocab);
  builder->AddString("tokenizer.ggml.model", "gpt2");
  builder->AddString("tokenizer.ggml.pre", "smollm");
  builder->AddStrings("tokenizer.ggml.tokens", t.tokens);
  std::vector<int32_t> types(t.tokens.size(), 1);
  for (size_t i = 0; i < 3; ++i) types[i] = 3;
  builder->AddInts("tokenizer.ggml.token_type", types);
  std::vector<std::string> merges;
  for (const auto& [a, b] : t.merges) merges.push_back(absl::StrCat(a, " ", b));
  builder->AddStrings("tokenizer.ggml.merges", merges);
  if (s.bos_token >= 0) {
    builder->AddU32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(s.bos_token));
  }
  builder->AddU32("tokenizer.ggml.eos_token_id", kTinyImEnd);
  builder->AddU32("tokenizer.ggml.eot_token_id", kTinyEndOfText);
  builder->AddBool("tokenizer.ggml.add_bos_token", s.add_bos);
  builder->AddString("tokenizer.chat_template", t.chat_template);
}

uint32_t GgmlNumber(DType dtype) {
  return dtype == DType::kF32 ? 0 : dtype == DType::kF16 ? 1 : 30;
}

}  // namespace

ArchitectureSpec TinyLlamaSpec(const TinyLlamaOptions& options) {
  ArchitectureSpec s;
  s.family = "llama";
  s.vocab = options.vocab;
  s.hidden = options.hidden;
  s.intermediate = options.intermediate;
  s.blocks = options.blocks;
  s.heads = options.heads;
  s.kv_heads = options.kv_heads;
  s.head_dim = options.head_dim > 0 ? options.head_dim : options.hidden / options.heads;
  s.context = options.context;
  s.norm_eps = 1e-5;
  s.rope_theta = 10000.0;
  s.rope_scaling = options.rope_scaling;
  if (options.rope_scaling != RopeScaling::kNone) s.rope_factor = 8.0;
  if (options.rope_scaling == RopeScaling::kLlama3) s.rope_original_context = 64;
  s.tied_embeddings = options.tied;
  s.qkv_bias = s.o_bias = options.attention_bias;
  s.mlp_bias = options.mlp_bias;
  s.bos_token = options.bos ? kTinyEndOfText : -1;
  s.eos_tokens = {kTinyImEnd, kTinyEndOfText};
  s.add_bos = options.bos;
  return s;
}

std::map<std::string, std::vector<float>> TinyLlamaWeights(const TinyLlamaOptions& options) {
  Generator generator(options.seed * 0x2545f4914f6cdd1du + 1);
  std::map<std::string, std::vector<float>> weights;
  for (const FamilyTensor& t : Llama().tensors(TinyLlamaSpec(options))) {
    weights[t.canonical] = RandomTensor(t, StoredType(t, options), &generator);
  }
  return weights;
}

absl::Status WriteTinyLlamaDirectory(const std::string& directory,
                                     const TinyLlamaOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return absl::InternalError(absl::StrCat(directory, ": ", error.message()));
  const ArchitectureSpec spec = TinyLlamaSpec(options);
  json config = Llama().to_config(spec);
  config["torch_dtype"] = "float32";
  SA_RETURN_IF_ERROR(WriteFile(directory + "/config.json", config.dump(2)));
  const json generation = {{"bos_token_id", config["bos_token_id"]},
                           {"eos_token_id", config["eos_token_id"]}};
  SA_RETURN_IF_ERROR(WriteFile(directory + "/generation_config.json", generation.dump(2)));
  const TinyTokenizer tokenizer = MakeTinyTokenizer(options.vocab);
  SA_RETURN_IF_ERROR(
      WriteFile(directory + "/tokenizer.json", TinyTokenizerJson(tokenizer, options.bos)));
  const json tokenizer_config = {{"chat_template", tokenizer.chat_template}};
  SA_RETURN_IF_ERROR(WriteFile(directory + "/tokenizer_config.json", tokenizer_config.dump(2)));
  return WriteShards(directory, options, Llama().tensors(spec), TinyLlamaWeights(options));
}

absl::Status WriteTinyLlamaGguf(const std::string& path, const TinyLlamaOptions& options) {
  const ArchitectureSpec spec = TinyLlamaSpec(options);
  GgufBuilder builder;
  AddGgufSpec(spec, &builder);
  AddGgufTokenizer(spec, &builder);
  const auto weights = TinyLlamaWeights(options);
  for (const FamilyTensor& t : Llama().tensors(spec)) {
    const std::vector<float>& values = weights.at(t.canonical);
    const DType dtype = StoredType(t, options);
    builder.AddTensor(
        t.gguf, GgmlNumber(dtype), t.shape,
        Encode(
            t.interleaved_heads > 0 ? Interleave(values, t.shape[0], t.interleaved_heads) : values,
            dtype));
  }
  return WriteFile(path, builder.Finish());
}

}  // namespace shiftadd::testing
