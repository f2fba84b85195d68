#include "worker/model/testing/golden_family.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/testing/tiny_tokenizer.h"
#include "worker/tensor/dtype.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  return out.good() ? absl::OkStatus() : absl::InternalError(path + ": cannot be written");
}

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

json ReadCases(const std::string& file) {
  // Where tests run on another machine than the one that built them.
  const char* const elsewhere = std::getenv("SHIFTADD_SOURCE_DIR");
  const std::string path =
      std::string(elsewhere != nullptr ? elsewhere : SHIFTADD_SOURCE_DIR) + "/tests/golden/" + file;
  std::ifstream in(path);
  const json all = json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!all.is_object()) {
    std::fprintf(stderr, "%s cannot be read\n", path.c_str());
    std::abort();
  }
  return all.at("cases");
}

// Rows of [outer][inner][each] as [inner][outer][each].
std::vector<float> SwapRows(const std::vector<float>& values, int64_t outer, int64_t inner) {
  const int64_t each = static_cast<int64_t>(values.size()) / (outer * inner);
  std::vector<float> out(values.size());
  for (int64_t i = 0; i < outer; ++i) {
    for (int64_t j = 0; j < inner; ++j)
      std::copy_n(values.begin() + (i * inner + j) * each, each,
                  out.begin() + (j * outer + i) * each);
  }
  return out;
}

// What stands in a GGUF file instead of transformers' tensor (make_family_ggufs.py).
std::vector<float> Converted(const json& tensor, bool zero_norms) {
  const std::string op = tensor.value("op", "");
  if (op == "values") return tensor.at("values").get<std::vector<float>>();
  const std::vector<int64_t> shape = tensor.at("shape");
  std::vector<float> values = GoldenWeight(tensor.at("from"), shape, zero_norms);
  if (op == "plus1") {
    for (float& x : values) x += 1.0f;
  } else if (op == "bloom_qkv") {
    values = SwapRows(values, tensor.at("heads"), 3);
  } else if (op == "permute") {
    const size_t head = values.size() / tensor.at("heads").get<size_t>();
    for (auto begin = values.begin(); begin != values.end(); begin += head) {
      const std::vector<float> turned =
          SwapRows({begin, begin + head}, 2, static_cast<int64_t>(head) / shape[1] / 2);
      std::copy(turned.begin(), turned.end(), begin);
    }
  }
  return values;
}

std::vector<char> Bytes(const std::vector<float>& values, bool halves) {
  std::vector<char> bytes(values.size() * (halves ? sizeof(uint16_t) : sizeof(float)));
  if (!halves) std::memcpy(bytes.data(), values.data(), bytes.size());
  for (size_t i = 0; halves && i < values.size(); ++i) {
    const uint16_t half = FloatToHalf(values[i]);
    std::memcpy(bytes.data() + i * sizeof(half), &half, sizeof(half));
  }
  return bytes;
}

}  // namespace

const json& GoldenFamilies() {
  static const auto* const cases = new json(ReadCases("families.json"));
  return *cases;
}

std::vector<std::string> GoldenNames(const json& cases) {
  std::vector<std::string> names;
  for (const json& one : cases) names.push_back(one.at("name"));
  return names;
}

const json& GoldenCase(const json& cases, const std::string& name) {
  const auto found = std::find_if(cases.begin(), cases.end(),
                                  [&](const json& one) { return one.at("name") == name; });
  if (found == cases.end()) std::abort();
  return *found;
}

std::string GoldenTestName(const std::string& name) {
  std::string out = name;
  for (char& c : out) c = absl::ascii_isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return out;
}

const json& GoldenGgufs() {
  static const auto* const cases = new json(ReadCases("family_ggufs.json"));
  return *cases;
}

absl::Status WriteGoldenGguf(const json& golden, const std::string& path) {
  std::string file;
  if (!absl::Base64Unescape(golden.at("head").get<std::string>(), &file)) {
    return absl::InternalError("family_ggufs.json: head is not base64");
  }
  file.resize(golden.at("size"), '\0');
  const bool zero_norms = absl::StartsWith(golden.at("name").get<std::string>(), "gemma");
  for (const json& tensor : golden.at("tensors")) {
    const std::vector<float> values = Converted(tensor, zero_norms);
    const size_t offset = tensor.at("offset"), bytes = values.size() * sizeof(float);
    if (offset + bytes > file.size()) return absl::InternalError(path + ": a tensor lies outside");
    std::memcpy(file.data() + offset, values.data(), bytes);
  }
  return WriteText(path, file);
}

std::vector<float> GoldenWeight(const std::string& name, const std::vector<int64_t>& shape,
                                bool zero_norms) {
  uint64_t state = 0xcbf29ce484222325u;
  for (const char c : name) state = (state ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  float scale = 0.4f, mean = zero_norms ? 0.0f : 1.0f;
  if (shape.size() == 2) {
    scale = static_cast<float>(2.5 / std::sqrt(static_cast<double>(shape[1])));
    mean = 0.0f;
  } else if (absl::EndsWith(name, "bias")) {
    scale = 0.2f;
    mean = 0.0f;
  }
  std::vector<float> out(static_cast<size_t>(shape.size() == 2 ? shape[0] * shape[1] : shape[0]));
  for (size_t i = 0; i < out.size(); ++i) {
    const uint64_t x = Mix(state + (i + 1) * 0x9e3779b97f4a7c15u);
    const float u = static_cast<float>(x >> 40) * 0x1p-23f - 1.0f;
    out[i] = u * scale + mean;
  }
  return out;
}

absl::Status WriteGoldenFamily(const json& golden, const std::string& directory,
                               const std::string& drop, bool halves) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  SA_RETURN_IF_ERROR(WriteText(directory + "/config.json", golden.at("config").dump(2)));
  const int64_t vocab = golden.at("config").at("vocab_size");
  SA_RETURN_IF_ERROR(WriteText(directory + "/tokenizer.json",
                               TinyTokenizerJson(MakeTinyTokenizer(vocab), /*add_bos=*/false)));
  const bool zero_norms = absl::StartsWith(golden.at("name").get<std::string>(), "gemma");
  std::deque<std::vector<char>> bytes;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, shape] : golden.at("tensors").items()) {
    bytes.push_back(Bytes(GoldenWeight(name, shape, zero_norms), halves));
    const bool bare = !drop.empty() && absl::StartsWith(name, drop);
    tensors.push_back({bare ? name.substr(drop.size()) : name,
                       halves ? DType::kF16 : DType::kF32,
                       shape,
                       {bytes.back().data(), bytes.back().size()}});
  }
  SA_ASSIGN_OR_RETURN(const std::string blob, WriteSafetensors(std::move(tensors), {}));
  return WriteText(directory + "/model.safetensors", blob);
}

double GoldenError(const json& golden, const std::vector<float>& logits) {
  const int64_t vocab = golden.at("config").at("vocab_size");
  double worst = 0, lowest = 0, highest = 0;
  int64_t position = 0;
  for (const json& at : golden.at("positions")) {
    const float* row = logits.data() + vocab * position++;
    lowest = std::min(lowest, at.at("min").get<double>());
    highest = std::max(highest, at.at("max").get<double>());
    worst =
        std::max({worst, std::abs(*std::max_element(row, row + vocab) - at.at("max").get<double>()),
                  std::abs(*std::min_element(row, row + vocab) - at.at("min").get<double>())});
    for (size_t i = 0; i < at.at("indices").size(); ++i) {
      const double difference =
          row[at["indices"][i].get<int64_t>()] - at["values"][i].get<double>();
      worst = std::isfinite(difference) ? std::max(worst, std::abs(difference)) : HUGE_VAL;
    }
  }
  return worst / (highest - lowest);
}

}  // namespace shiftadd::testing
