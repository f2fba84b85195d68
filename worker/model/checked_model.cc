#include "worker/model/checked_model.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/status_macros.h"
#include "worker/model/tokenizer.h"
#include "worker/tensor/dtype.h"

namespace shiftadd {
namespace {

constexpr size_t kMaxFaults = 200;  // lines in one message

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// What the source calls a tensor.
std::string NameIn(const ModelParts& parts, const FamilyTensor& t) {
  if (parts.format == SourceFormat::kGguf) return t.gguf;
  const auto& there = parts.tensors->tensors();
  if (there.count(t.hugging_face) > 0) return t.hugging_face;
  std::vector<std::pair<std::string, std::string>> others = parts.family->nested;
  if (!parts.family->optional_prefix.empty())
    others.emplace_back(parts.family->optional_prefix, "");
  for (const auto& [plain, instead] : others) {
    if (!absl::StartsWith(t.hugging_face, plain)) continue;
    const std::string name = instead + t.hugging_face.substr(plain.size());
    if (there.count(name) > 0) return name;
  }
  return t.hugging_face;
}

// The other way round, for tensors that no spec lists.
std::string PlainName(const Family& family, const std::string& name) {
  for (const auto& [plain, nested] : family.nested) {
    if (absl::StartsWith(name, nested)) return plain + name.substr(nested.size());
  }
  return name;
}

bool LeftOut(const Family& family, const std::string& name) {
  return std::any_of(family.left_out.begin(), family.left_out.end(),
                     [&](const std::string& begin) { return absl::StartsWith(name, begin); });
}

class CheckedModel : public ModelSource {
 public:
  CheckedModel(ModelParts parts, std::vector<FamilyTensor> plan)
      : parts_(std::move(parts)), plan_(std::move(plan)) {
    for (size_t i = 0; i < plan_.size(); ++i) {
      by_name_[plan_[i].canonical] = i;
      SourceTensor listed{plan_[i].canonical, parts_.tensors->tensors().at(SourceName(plan_[i]))};
      listed.info.shape = plan_[i].shape;  // of a fused tensor: this part
      listed.info.bytes /= static_cast<uint64_t>(plan_[i].fused_parts);
      listed_.push_back(std::move(listed));
      source_bytes_ += listed_.back().info.bytes;
    }
    files_ = parts_.tensors->files();
    for (const std::string& file : parts_.metadata_files) {
      if (std::count(files_.begin(), files_.end(), file) == 0) files_.push_back(file);
    }
  }

  const ArchitectureSpec& spec() const override { return parts_.spec; }
  bool Has(const std::string& name) const override { return by_name_.count(name) > 0; }
  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override;
  bool HasRows(const std::string& name) const override;
  absl::Status ReadRows(const std::string& name, int64_t rows, int64_t cols, int64_t begin,
                        int64_t end, float* out) const override;
  std::optional<RawTensor> Raw(const std::string& name) const override;
  const std::vector<SourceTensor>& tensors() const override { return listed_; }
  uint64_t source_bytes() const override { return source_bytes_; }
  const std::vector<std::string>& files() const override { return files_; }
  std::string config_json() const override {
    return parts_.family->to_config(parts_.spec).dump(2) + "\n";
  }
  std::string tokenizer_json() const override { return parts_.tokenizer_json; }
  std::string generation_config_json() const override {
    const nlohmann::json config = parts_.family->to_config(parts_.spec);
    return nlohmann::json{{"bos_token_id", config.at("bos_token_id")},
                          {"eos_token_id", config.at("eos_token_id")}}
               .dump(2) +
           "\n";
  }

 private:
  // Read gives its numbers as the file has them.
  bool Plain(const FamilyTensor& t) const {
    const bool gguf = parts_.format == SourceFormat::kGguf;
    return t.fused_parts <= 1 && (gguf ? t.interleaved_heads == 0 : t.hugging_face_plus == 0);
  }
  std::string SourceName(const FamilyTensor& t) const { return NameIn(parts_, t); }

  ModelParts parts_;
  std::vector<FamilyTensor> plan_;
  std::map<std::string, size_t> by_name_;
  std::vector<SourceTensor> listed_;
  std::vector<std::string> files_;
  uint64_t source_bytes_ = 0;
};

// Rows (2j, 2j+1) of each head become rows (j, j + half).
std::vector<float> Deinterleave(const std::vector<float>& in, int64_t rows, int64_t heads) {
  const int64_t width = static_cast<int64_t>(in.size()) / rows;
  const int64_t head_rows = rows / heads, half = head_rows / 2;
  std::vector<float> out(in.size());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / head_rows, i = row % head_rows;
    const int64_t from = head * head_rows + (i < half ? 2 * i : 2 * (i - half) + 1);
    std::copy_n(in.begin() + from * width, width, out.begin() + row * width);
  }
  return out;
}

// Part `t.fused_part` of a fused tensor's rows, which are runs of the parts, once or in each head.
std::vector<float> PartOf(const std::vector<float>& in, const FamilyTensor& t, int64_t heads) {
  const int64_t rows = t.shape[0], run = rows / heads;
  const int64_t width = static_cast<int64_t>(in.size()) / (rows * t.fused_parts);
  std::vector<float> out(static_cast<size_t>(rows * width));
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t from = (h * t.fused_parts + t.fused_part) * run;
    std::copy_n(in.begin() + from * width, run * width, out.begin() + h * run * width);
  }
  return out;
}

absl::StatusOr<std::vector<float>> CheckedModel::Read(const std::string& name) const {
  const auto it = by_name_.find(name);
  if (it == by_name_.end()) {
    return absl::NotFoundError(absl::StrCat(parts_.path, ": the model has no tensor '", name, "'"));
  }
  const FamilyTensor& t = plan_[it->second];
  const TensorInfo& info = listed_[it->second].info;
  const bool gguf = parts_.format == SourceFormat::kGguf;
  std::vector<float> values(static_cast<size_t>(info.elements() * t.fused_parts));
  const absl::Status read =
      parts_.tensors->ReadRows(info.name, 0, t.SourceShape()[0], values.data());
  if (parts_.format == SourceFormat::kHuggingFace) {
    SA_RETURN_IF_ERROR(Annotate(read, parts_.path));  // the file's name is relative
  }
  SA_RETURN_IF_ERROR(read);
  if (t.fused_parts > 1) values = PartOf(values, t, gguf ? 1 : t.hugging_face_fused_heads);
  if (gguf && t.interleaved_heads > 0) {
    return Deinterleave(values, t.shape[0], t.interleaved_heads);
  }
  if (!gguf && t.hugging_face_plus != 0) {
    for (float& value : values) value += t.hugging_face_plus;
  }
  return values;
}

bool CheckedModel::HasRows(const std::string& name) const {
  const auto it = by_name_.find(name);
  // What is stored as it is read, and nothing else.
  return it != by_name_.end() && Plain(plan_[it->second]);
}

absl::Status CheckedModel::ReadRows(const std::string& name, int64_t rows, int64_t cols,
                                    int64_t begin, int64_t end, float* out) const {
  const auto it = by_name_.find(name);
  const bool plain =
      HasRows(name) && listed_[it->second].info.shape == std::vector<int64_t>{rows, cols};
  if (!plain) return WeightProvider::ReadRows(name, rows, cols, begin, end, out);
  const absl::Status read =
      parts_.tensors->ReadRows(listed_[it->second].info.name, begin, end, out);
  // A Hugging Face file's name is relative.
  return parts_.format == SourceFormat::kHuggingFace ? Annotate(read, parts_.path) : read;
}

std::optional<RawTensor> CheckedModel::Raw(const std::string& name) const {
  const auto it = by_name_.find(name);
  if (it == by_name_.end()) return std::nullopt;
  const FamilyTensor& t = plan_[it->second];
  const TensorInfo& info = listed_[it->second].info;
  if (!Plain(t)) return std::nullopt;
  if (info.dtype != DType::kF32 && info.dtype != DType::kF16 && info.dtype != DType::kBF16)
    return std::nullopt;
  const auto bytes = parts_.tensors->Bytes(info.name);
  if (!bytes.ok()) return std::nullopt;
  return RawTensor{info.dtype, *bytes};
}

// Every fault of the tensors, one a line.
std::vector<std::string> TensorFaults(const ModelParts& parts,
                                      const std::vector<FamilyTensor>& plan) {
  std::vector<std::string> faults;
  std::set<std::string> expected;
  for (const FamilyTensor& t : plan) {
    const std::string name = NameIn(parts, t);
    expected.insert(name);
    const auto it = parts.tensors->tensors().find(name);
    if (it == parts.tensors->tensors().end()) {
      faults.push_back(
          absl::StrCat("tensor '", name, "' is missing, expected ", ShapeText(t.SourceShape())));
      continue;
    }
    const TensorInfo& info = it->second;
    if (info.shape != t.SourceShape()) {
      faults.push_back(absl::StrCat(info.file, ": tensor '", name, "' has shape ",
                                    ShapeText(info.shape), ", expected ",
                                    ShapeText(t.SourceShape())));
    } else if (!IsReal(info.dtype)) {
      faults.push_back(absl::StrCat(info.file, ": tensor '", name, "' has type ",
                                    DTypeName(info.dtype),
                                    ", expected a floating-point or a block-quantized type"));
    }
  }
  int64_t left_out = 0;
  for (const auto& [name, info] : parts.tensors->tensors()) {
    if (expected.count(name) > 0) continue;
    if (parts.format == SourceFormat::kHuggingFace && LeftOut(*parts.family, name)) {
      ++left_out;
      continue;
    }
    if (parts.family->ignored(parts.spec, PlainName(*parts.family, name))) continue;
    faults.push_back(absl::StrCat(info.file, ": tensor '", name, "' ", ShapeText(info.shape),
                                  " is not one that this model has"));
  }
  if (left_out > 0) {
    spdlog::info("{}: {} tensors ({}) are left out: only the language model is read", parts.path,
                 left_out, absl::StrJoin(parts.family->left_out, ", "));
  }
  return faults;
}

absl::Status CheckTensors(const ModelParts& parts, const std::vector<FamilyTensor>& plan) {
  std::vector<std::string> faults = TensorFaults(parts, plan);
  if (faults.empty()) return absl::OkStatus();
  const size_t count = faults.size();
  if (count > kMaxFaults) {
    faults.resize(kMaxFaults);
    faults.push_back(absl::StrCat("and ", count - kMaxFaults, " more"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(parts.path, ": ", count, count == 1 ? " fault" : " faults", " in the tensors:\n",
                   absl::StrJoin(faults, "\n")));
}

// A tokenizer that cannot be used is told now, not when the model is done.
absl::Status CheckTokenizer(const ModelParts& parts) {
  const auto tokenizer = Tokenizer::FromJson(parts.tokenizer_json);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), parts.path);
  if ((*tokenizer)->vocab_size() <= parts.spec.vocab) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(parts.path, ": the tokenizer has token ", (*tokenizer)->vocab_size() - 1,
                   ", expected ids below ", parts.spec.vocab, ", the rows of the embedding"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> MakeCheckedModel(ModelParts parts) {
  auto spec = ArchitectureSpecFromJson(ToJson(parts.spec));
  if (!spec.ok()) return Annotate(spec.status(), parts.path);
  SA_RETURN_IF_ERROR(CheckTokenizer(parts));
  std::vector<FamilyTensor> plan = parts.family->tensors(parts.spec);
  SA_RETURN_IF_ERROR(CheckTensors(parts, plan));
  return std::make_unique<CheckedModel>(std::move(parts), std::move(plan));
}

absl::StatusOr<std::unique_ptr<ModelSource>> ModelSource::Open(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return absl::NotFoundError(
        absl::StrCat(path,
                     ": no such source, expected a .gguf file or a directory with config.json, "
                     "*.safetensors and tokenizer.json"));
  }
  if (std::filesystem::is_directory(status)) return OpenHuggingFaceDirectory(path);
  return OpenGgufModel(path);
}

}  // namespace shiftadd
