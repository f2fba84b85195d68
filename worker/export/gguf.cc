// The export that llama.cpp loads.
#include <filesystem>
#include <set>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/export/export.h"
#include "worker/export/gguf_header.h"
#include "worker/export/gguf_tokenizer.h"
#include "worker/export/output_file.h"
#include "worker/model/hugging_face_config.h"
#include "worker/model/llama_family.h"
#include "worker/model/model_source.h"

namespace shiftadd {
namespace {

using nlohmann::json;

constexpr uint32_t kMostlyF16 = 1;  // general.file_type

// GGUF's name for what a family is; empty: it has none.
std::string GgufArchitecture(const ArchitectureSpec& s) {
  if (s.family == "llama" || s.family == "mistral") return "llama";
  for (const char* same : {"qwen2", "qwen3", "gemma", "gemma2", "gemma3", "bloom"}) {
    if (s.family == same) return same;
  }
  return "";
}

void AddArchitecture(const ArchitectureSpec& s, const std::string& name, GgufHeader* header) {
  const auto number = [&](const char* key, int64_t value) {
    header->Add(absl::StrCat(name, ".", key), static_cast<uint32_t>(value));
  };
  const auto real = [&](const char* key, double value) {
    header->Add(absl::StrCat(name, ".", key), static_cast<float>(value));
  };
  number("vocab_size", s.vocab);
  number("context_length", s.context);
  number("embedding_length", s.hidden);
  number("block_count", s.blocks);
  number("feed_forward_length", s.intermediate);
  number("attention.head_count", s.heads);
  number("attention.head_count_kv", s.kv_heads);
  if (s.position == PositionKind::kAlibi) {
    real("attention.layer_norm_epsilon", s.norm_eps);
    return;
  }
  number("rope.dimension_count", s.head_dim);
  number("attention.key_length", s.head_dim);
  number("attention.value_length", s.head_dim);
  real("attention.layer_norm_rms_epsilon", s.norm_eps);
  real("rope.freq_base", s.rope_theta);
  if (s.rope_scaling == RopeScaling::kLinear) {
    header->Add(absl::StrCat(name, ".rope.scaling.type"), absl::string_view("linear"));
    real("rope.scaling.factor", s.rope_factor);
  } else if (s.rope_scaling == RopeScaling::kLlama3) {
    json rope;
    WriteRope(s, &rope);
    header->Add(kGgufRopeKey, absl::string_view(rope.dump()));
  }
  if (s.norm_place != NormPlace::kAround) return;
  if (s.attention_cap > 0) real("attn_logit_softcapping", s.attention_cap);
  if (s.logit_cap > 0) real("final_logit_softcapping", s.logit_cap);
  if (s.window > 0) number("attention.sliding_window", s.window);
  if (s.rope_local_theta > 0) real("rope.freq_base_swa", s.rope_local_theta);
}

// Whatever llama.cpp does not look for. What the file cannot say at all is found by reading it
// back.
absl::Status CheckTensors(const ArchitectureSpec& s) {
  if (s.family == "llama" || s.family == "mistral" || s.family == "bloom") return absl::OkStatus();
  if (s.o_bias || s.mlp_bias || (s.qkv_bias && s.family != "qwen2")) {
    return absl::UnimplementedError(
        absl::StrCat("gguf: ", s.family, " with such biases cannot be written"));
  }
  return absl::OkStatus();
}

// The file's start, with nothing where most tensors will be, read as any GGUF file is: it must say
// what the package says.
absl::Status CheckReadBack(const std::string& head, uint64_t bytes, PackageWeights* weights,
                           const std::string& path) {
  OutputFile file(path);
  SA_RETURN_IF_ERROR(file.Write(head));
  SA_RETURN_IF_ERROR(file.Close());
  std::error_code error;
  std::filesystem::resize_file(path, bytes, error);
  const auto model = ModelSource::Open(path);
  if (!model.ok()) return Annotate(model.status(), "gguf: the file would not be readable");
  const json ours = ToJson(weights->spec()), theirs = ToJson((*model)->spec());
  // Of end tokens a file has two.
  const std::set<std::string> free = {"family", "eos_tokens"};
  for (const json& document : {ours, theirs}) {
    for (const auto& [key, value] : document.items()) {
      const json mine = ours.value(key, json()), other = theirs.value(key, json());
      if (free.count(key) > 0 || mine == other) continue;
      return absl::UnimplementedError(
          absl::StrCat("gguf: ", weights->spec().family, " whose ", key, " is ", mine.dump(),
                       " cannot be written: it would be read as ", other.dump()));
    }
  }
  return CheckSameTokens(weights->tokenizer().dump(), (*model)->tokenizer_json());
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

bool IsHalf(const FileTensor& tensor) { return tensor.front().shape.size() > 1; }

}  // namespace

absl::Status WriteGguf(PackageWeights* weights, const std::string& folder) {
  const ArchitectureSpec& spec = weights->spec();
  const std::string architecture = GgufArchitecture(spec);
  if (architecture.empty()) {
    return absl::UnimplementedError(
        absl::StrCat("gguf: models of the family ", spec.family,
                     " cannot be written, expected llama, mistral, qwen2, qwen3, gemma, gemma2, "
                     "gemma3 or bloom"));
  }
  SA_RETURN_IF_ERROR(CheckTensors(spec));
  GgufHeader header;
  header.Add("general.architecture", absl::string_view(architecture));
  header.Add("general.name", absl::string_view(weights->name()));
  header.Add("general.file_type", kMostlyF16);
  AddArchitecture(spec, architecture, &header);
  SA_RETURN_IF_ERROR(AddGgufTokenizer(weights->tokenizer(), spec, &header));
  const std::vector<FileTensor> tensors =
      FileTensors(weights->family().tensors(spec), FileFormat::kGguf);
  const std::vector<float> factors = RopeFactors(spec);
  if (!factors.empty()) header.AddTensor("rope_freqs.weight", {spec.head_dim / 2}, false);
  for (const FileTensor& t : tensors) {
    header.AddTensor(t.front().gguf, FileShape(t), IsHalf(t));
  }
  const std::string head = header.Finish();
  const uint64_t bytes = head.size() + header.data_bytes();
  const std::string start = head + std::string(reinterpret_cast<const char*>(factors.data()),
                                               factors.size() * sizeof(float));
  SA_RETURN_IF_ERROR(CheckReadBack(start, bytes, weights, folder + "/head.gguf"));
  std::filesystem::remove(folder + "/head.gguf");

  OutputFile file(folder + "/model-f16.gguf");
  SA_RETURN_IF_ERROR(file.Write(start));
  SA_RETURN_IF_ERROR(file.Pad(kGgufAlignment));
  for (const FileTensor& t : tensors) {
    SA_RETURN_IF_ERROR(weights->ReadAsIn(FileFormat::kGguf, t, [&](const std::vector<float>& rows) {
      return IsHalf(t) ? file.WriteHalves(t.front().canonical, rows) : file.WriteFloats(rows);
    }));
    SA_RETURN_IF_ERROR(file.Pad(kGgufAlignment));
  }
  return file.Close();
}

}  // namespace shiftadd
