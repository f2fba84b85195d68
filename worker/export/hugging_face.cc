// The export that transformers loads.
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/base/status_macros.h"
#include "worker/export/export.h"
#include "worker/export/output_file.h"

namespace shiftadd {
namespace {

using nlohmann::json;

constexpr size_t kAlignment = 64;

uint64_t HalfBytes(const FileTensor& tensor) {
  uint64_t bytes = 2;
  for (const int64_t d : FileShape(tensor)) bytes *= static_cast<uint64_t>(d);
  return bytes;
}

// In the model's order; a shard ends before it would grow beyond `limit`.
std::vector<std::vector<FileTensor>> Shards(const std::vector<FileTensor>& tensors,
                                            uint64_t limit) {
  std::vector<std::vector<FileTensor>> shards(1);
  uint64_t bytes = 0;
  for (const FileTensor& tensor : tensors) {
    if (bytes > 0 && bytes + HalfBytes(tensor) > limit) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += HalfBytes(tensor);
    shards.back().push_back(tensor);
  }
  return shards;
}

// The length and the JSON that a safetensors file begins with; the data start at a multiple of 64.
std::string SafetensorsHeader(const std::vector<FileTensor>& tensors) {
  json header = {{"__metadata__", {{"format", "pt"}}}};  // transformers refuses files without it
  uint64_t position = 0;
  for (const FileTensor& tensor : tensors) {
    const uint64_t end = position + HalfBytes(tensor);
    header[tensor.front().hugging_face] = {
        {"dtype", "F16"}, {"shape", FileShape(tensor)}, {"data_offsets", {position, end}}};
    position = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 8 + kAlignment - 1) / kAlignment * kAlignment - 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

absl::Status WriteShard(PackageWeights* weights, const std::vector<FileTensor>& tensors,
                        const std::string& path) {
  OutputFile file(path);
  SA_RETURN_IF_ERROR(file.Write(SafetensorsHeader(tensors)));
  for (const FileTensor& tensor : tensors) {
    const std::string& name = tensor.front().canonical;
    const float plus = tensor.front().hugging_face_plus;
    const auto write = [&](const std::vector<float>& rows) {
      if (plus == 0) return file.WriteHalves(name, rows);
      std::vector<float> less = rows;
      for (float& value : less) value -= plus;
      return file.WriteHalves(name, less);
    };
    SA_RETURN_IF_ERROR(weights->ReadAsIn(FileFormat::kHuggingFace, tensor, write));
  }
  return file.Close();
}

absl::Status WriteJson(const json& document, const std::string& path) {
  OutputFile file(path);
  SA_RETURN_IF_ERROR(file.Write(document.dump(2) + "\n"));
  return file.Close();
}

absl::Status WriteWeights(PackageWeights* weights, uint64_t shard_bytes,
                          const std::string& folder) {
  const auto shards =
      Shards(FileTensors(weights->family().tensors(weights->spec()), FileFormat::kHuggingFace),
             shard_bytes);
  if (shards.size() == 1) return WriteShard(weights, shards[0], folder + "/model.safetensors");
  json map = json::object();
  uint64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    SA_RETURN_IF_ERROR(WriteShard(weights, shards[i], folder + "/" + name));
    for (const FileTensor& tensor : shards[i]) {
      map[tensor.front().hugging_face] = name;
      total += HalfBytes(tensor);
    }
  }
  return WriteJson({{"metadata", {{"total_size", total}}}, {"weight_map", std::move(map)}},
                   folder + "/model.safetensors.index.json");
}

// The text of a token: of the vocabulary, or added to it.
json TokenText(const json& tokenizer, const json& id) {
  if (!id.is_number_integer()) return nullptr;
  for (const json& token : tokenizer.value("added_tokens", json::array())) {
    if (token.value("id", json()) == id) return token.value("content", json());
  }
  const json model = tokenizer.value("model", json::object());
  const json vocab = model.value("vocab", json::object());
  for (const auto& [text, number] : vocab.items()) {
    if (number == id) return text;
  }
  return nullptr;
}

json TokenizerConfig(const json& tokenizer, int64_t context) {
  const json ours = tokenizer.value("shiftadd", json::object());
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false},
                 {"model_max_length", context}};
  const json eos = ours.value("eos", json::array());
  const json bos = TokenText(tokenizer, ours.value("bos", json()));
  const json end = TokenText(tokenizer, eos.is_array() && !eos.empty() ? eos[0] : json());
  if (!bos.is_null()) config["bos_token"] = bos;
  if (!end.is_null()) config["eos_token"] = end;
  const json chat = ours.value("chat_template", json());
  if (chat.is_string()) config["chat_template"] = chat;
  return config;
}

}  // namespace

absl::Status WriteHuggingFace(PackageWeights* weights, uint64_t shard_bytes,
                              const std::string& folder) {
  const ArchitectureSpec& spec = weights->spec();
  if (spec.family == "llama" && spec.o_bias != spec.qkv_bias) {
    return absl::UnimplementedError(
        "the model has biases on q, k, v or on o alone: config.json has one field for both");
  }
  json config = weights->family().to_config(spec);
  config["torch_dtype"] = "float16";
  SA_RETURN_IF_ERROR(WriteJson(config, folder + "/config.json"));
  json tokenizer = weights->tokenizer();
  SA_RETURN_IF_ERROR(
      WriteJson(TokenizerConfig(tokenizer, spec.context), folder + "/tokenizer_config.json"));
  tokenizer.erase("shiftadd");
  SA_RETURN_IF_ERROR(WriteJson(tokenizer, folder + "/tokenizer.json"));
  json generation = {{"bos_token_id", config["bos_token_id"]},
                     {"eos_token_id", config["eos_token_id"]}};
  SA_RETURN_IF_ERROR(WriteJson(generation, folder + "/generation_config.json"));
  return WriteWeights(weights, shard_bytes, folder);
}

}  // namespace shiftadd
