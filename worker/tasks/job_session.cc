#include "worker/tasks/job_session.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "services/base/status_macros.h"
#include "worker/machine/gpu.h"
#include "worker/quantize/parallel.h"
#include "worker/tasks/device_memory.h"

namespace shiftadd {
namespace {

constexpr char kFileScheme[] = "file://";

// The text of a calibration file: plain, or the "text" fields of JSONL joined with blank lines.
absl::StatusOr<std::string> PlainText(const std::string& data, const std::string& digest) {
  const size_t first = data.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("text ", digest, ": it is empty"));
  }
  const std::string head = data.substr(first, data.find('\n', first) - first);
  const auto probe = nlohmann::json::parse(head, nullptr, /*allow_exceptions=*/false);
  if (!probe.is_object()) return data;
  std::vector<std::string> texts;
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(data, '\n')) {
    ++line_number;
    if (line.find_first_not_of(" \t\r") == absl::string_view::npos) continue;
    const auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
    if (!json.is_object() || !json.contains("text") || !json["text"].is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("text ", digest, " line ", line_number,
                       ": expected a JSON object with a string field \"text\""));
    }
    texts.push_back(json["text"].get<std::string>());
  }
  return absl::StrJoin(texts, "\n\n");
}

// The one tensor of a scratch blob.
struct ScratchTensor {
  const char* name;
  DType dtype;
  size_t rank;
  const char* rank_word;  // for messages
};
constexpr ScratchTensor kTokens{"tokens", DType::kI32, 2, "two"};
constexpr ScratchTensor kHidden{"hidden", DType::kF32, 3, "three"};

// Fills `data` and gives the shape; DATA_LOSS if the blob holds anything else than `tensor` says.
template <typename T>
absl::StatusOr<std::vector<int64_t>> ReadScratch(BlobStore* store, const std::string& job_id,
                                                 const std::string& digest,
                                                 const ScratchTensor& tensor,
                                                 std::vector<T>* data) {
  SA_ASSIGN_OR_RETURN(const std::string blob, store->GetScratch(job_id, digest));
  SA_ASSIGN_OR_RETURN(auto file, ParseSafetensors(blob, digest));
  const auto it = file->tensors().find(tensor.name);
  if (it == file->tensors().end() || it->second.dtype != tensor.dtype ||
      it->second.shape.size() != tensor.rank) {
    return absl::DataLossError(absl::StrCat("scratch blob ", digest, ": expected one ",
                                            DTypeName(tensor.dtype), " tensor \"", tensor.name,
                                            "\" of ", tensor.rank_word, " dimensions"));
  }
  SA_ASSIGN_OR_RETURN(const absl::string_view bytes, file->Bytes(tensor.name));
  data->resize(bytes.size() / sizeof(T));
  std::memcpy(data->data(), bytes.data(), bytes.size());
  return it->second.shape;
}

template <typename T>
absl::StatusOr<std::string> ScratchBlob(const ScratchTensor& tensor, std::vector<int64_t> shape,
                                        const T* data) {
  size_t numbers = 1;
  for (const int64_t d : shape) numbers *= static_cast<size_t>(d);
  const absl::string_view bytes(reinterpret_cast<const char*>(data), numbers * sizeof(T));
  return WriteSafetensors({TensorToWrite{tensor.name, tensor.dtype, std::move(shape), bytes}}, {});
}

// What `path` really is lies under a root.
absl::Status CheckUnderRoots(const std::string& path, const std::vector<std::string>& roots) {
  std::error_code missing, error;
  auto place = std::filesystem::canonical(path, missing);
  // Of what is not there as much as is there; what is outside is refused alike whether it is there
  // or not, or whoever submits could ask which files this machine has.
  if (missing) place = std::filesystem::weakly_canonical(path, error);
  for (const std::string& root : roots) {
    const auto base = std::filesystem::canonical(root, error);
    if (error) continue;
    const auto relative = place.lexically_relative(base);
    if (relative.empty() || *relative.begin() == "..") continue;
    if (!missing) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("source ", path, ": ", missing.message()));
  }
  return absl::PermissionDeniedError(absl::StrCat("source ", path, ": expected a path under ",
                                                  absl::StrJoin(roots, ", "),
                                                  " (the worker's --source-root)"));
}

// The source, and every file of a directory: a link inside it may lead out as well.
absl::Status CheckSource(const std::string& path, const std::vector<std::string>& roots) {
  SA_RETURN_IF_ERROR(CheckUnderRoots(path, roots));
  std::error_code error;
  for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!entry->is_symlink(error)) continue;
    const absl::Status status = CheckUnderRoots(entry->path().string(), roots);
    // A link to nowhere is nobody's file: whoever needs it says so.
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> PathOfUri(const std::string& uri) {
  if (!absl::StartsWith(uri, kFileScheme) || uri.size() <= sizeof(kFileScheme) - 1 ||
      uri[sizeof(kFileScheme) - 1] != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("source: expected file:// and an absolute path, got \"", uri, "\""));
  }
  return uri.substr(sizeof(kFileScheme) - 1);
}

absl::StatusOr<std::unique_ptr<JobSession>> JobSession::Open(const v1::TaskContext& context,
                                                             const TaskRunnerOptions& options,
                                                             BlobStore* store,
                                                             WorkerMetrics* metrics) {
  auto session = std::unique_ptr<JobSession>(new JobSession());
  session->job_id_ = context.job_id();
  session->options_ = options;
  session->store_ = std::shared_ptr<BlobStore>(store, [](BlobStore*) {});
  session->metrics_ = metrics;
  if (options.device == Device::kCuda || options.device == Device::kCpuHalf)
    session->boundaries_ = std::make_shared<MadeBoundaries>(options.memory_bytes / 8);
  SA_ASSIGN_OR_RETURN(session->source_path_, PathOfUri(context.source()));
  SA_RETURN_IF_ERROR(CheckSource(session->source_path_, options.source_roots));
  PhaseTimer timer(metrics->load);
  SA_ASSIGN_OR_RETURN(session->source_, ModelSource::Open(session->source_path_));
  return session;
}

uint64_t JobSession::Elements() const {
  uint64_t elements = 0;
  for (const SourceTensor& tensor : source_->tensors())
    elements += static_cast<uint64_t>(tensor.info.elements());
  return elements;
}

uint64_t JobSession::ModelMemory() const {
  if (options_.device != Device::kCuda) return options_.memory_bytes;
  if (options_.gpu_memory_bytes > 0) return options_.gpu_memory_bytes;
  const std::optional<Gpu> gpu = FindGpu();
  return gpu.has_value() ? gpu->memory_bytes : 0;
}

bool JobSession::Fits(int models, int number_bytes) const {
  return static_cast<uint64_t>(models) * Elements() * static_cast<uint64_t>(number_bytes) <
         ModelMemory();
}

absl::StatusOr<ReferenceModel*> JobSession::calibration_model() {
  const bool half = options_.device == Device::kCuda || options_.device == Device::kCpuHalf;
  if (!half) return model();
  if (CalibratesInFloat(source_->spec())) {
    return ModelOn(options_.device == Device::kCuda ? Device::kCuda : Device::kCpuOperators,
                   resident_blocks());
  }
  if (half_model_ == nullptr) {
    model_.reset();
    // 2 bytes a number; as much again and more is for states, Hessians and factors.
    const int resident = Elements() * 2 < ModelMemory() * 2 / 5 ? 0 : 1;
    SA_ASSIGN_OR_RETURN(
        half_model_, ReferenceModel::Create(
                         source_.get(), options_.threads, resident,
                         options_.device == Device::kCuda ? Device::kCudaHalf : Device::kCpuHalf));
  }
  return half_model_.get();
}

absl::StatusOr<ReferenceModel*> JobSession::ModelOn(Device device, int resident_blocks) {
  if (model_ == nullptr || model_device_ != device) {
    half_model_.reset();
    model_.reset();
    SA_ASSIGN_OR_RETURN(
        model_, ReferenceModel::Create(source_.get(), options_.threads, resident_blocks, device));
    model_device_ = device;
  }
  return model_.get();
}

absl::StatusOr<ReferenceModel*> JobSession::model() {
  return ModelOn(options_.device == Device::kCpuHalf ? Device::kCpu : options_.device,
                 resident_blocks());
}

Device JobSession::evaluation_device() const {
  if (options_.device == Device::kCuda) return Device::kCudaMixed;
  return options_.device == Device::kCpuHalf ? Device::kCpuMixed : options_.device;
}

absl::StatusOr<ReferenceModel*> JobSession::evaluation_model() {
  const Device device = evaluation_device();
  if (device == options_.device) return model();
  return ModelOn(device, Fits(3, /*number_bytes=*/2) ? 0 : 1);
}

absl::StatusOr<const std::vector<int32_t>*> JobSession::TextTokens(const std::string& text_digest) {
  if (text_digest != text_digest_) {
    SA_ASSIGN_OR_RETURN(const std::string data, store_->Get(text_digest));
    SA_ASSIGN_OR_RETURN(const std::string text, PlainText(data, text_digest));
    SA_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromJson(source_->tokenizer_json()));
    text_tokens_ = tokenizer->Encode(text, /*add_special=*/true, /*parse_special=*/false);
    text_digest_ = text_digest;
  }
  return &text_tokens_;
}

absl::StatusOr<TokenWindows> JobSession::ReadTokens(const std::string& digest) {
  PhaseTimer timer(metrics_->load);
  TokenWindows windows;
  SA_ASSIGN_OR_RETURN(const std::vector<int64_t> shape,
                      ReadScratch(store_.get(), job_id_, digest, kTokens, &windows.tokens));
  windows.count = shape[0];
  windows.length = shape[1];
  return windows;
}

absl::StatusOr<std::string> JobSession::WriteTokens(const TokenWindows& windows) {
  SA_ASSIGN_OR_RETURN(const std::string blob,
                      ScratchBlob(kTokens, {windows.count, windows.length}, windows.tokens.data()));
  PhaseTimer timer(metrics_->store);
  return store_->PutScratch(job_id_, blob);
}

absl::StatusOr<HiddenStates> JobSession::GetHidden(const std::string& digest) const {
  HiddenStates hidden;
  SA_ASSIGN_OR_RETURN(const std::vector<int64_t> shape,
                      ReadScratch(store_.get(), job_id_, digest, kHidden, &hidden.data));
  hidden.count = shape[0];
  hidden.length = shape[1];
  hidden.hidden = shape[2];
  return hidden;
}

absl::StatusOr<HiddenStates> JobSession::ReadHidden(const std::string& digest) {
  PhaseTimer timer(metrics_->load);
  return GetHidden(digest);
}

absl::StatusOr<std::vector<HiddenStates>> JobSession::ReadHidden(
    const std::vector<std::string>& digests, ReferenceModel* model) {
  constexpr int kTogether = 4;  // each takes twice its size for a while
  PhaseTimer timer(metrics_->load);
  std::vector<HiddenStates> all(digests.size());
  std::vector<size_t> to_read;
  for (size_t i = 0; i < digests.size(); ++i) {
    const MadeBoundary made =
        boundaries_ == nullptr ? MadeBoundary() : boundaries_->Find(digests[i]);
    if (made.rows == nullptr) {
      to_read.push_back(i);
      continue;
    }
    SA_ASSIGN_OR_RETURN(all[i],
                        model->FromHostCopy(made.rows, made.hidden.count, made.hidden.length));
  }
  SA_RETURN_IF_ERROR(
      quantize::ParallelFor(static_cast<int64_t>(to_read.size()), std::min(threads(), kTogether),
                            nullptr, [&](int64_t i) -> absl::Status {
                              SA_ASSIGN_OR_RETURN(all[to_read[i]], GetHidden(digests[to_read[i]]));
                              return absl::OkStatus();
                            }));
  return all;
}

absl::StatusOr<std::string> HiddenBlob(const HiddenStates& hidden, const float* rows) {
  return ScratchBlob(kHidden, {hidden.count, hidden.length, hidden.hidden},
                     rows == nullptr ? hidden.data.data() : rows);
}

absl::StatusOr<std::string> JobSession::WriteHidden(const HiddenStates& hidden) {
  SA_ASSIGN_OR_RETURN(const std::string blob, HiddenBlob(hidden));
  PhaseTimer timer(metrics_->store);
  return store_->PutScratch(job_id_, blob);
}

absl::StatusOr<TokenWeights> JobSession::ReadTokenWeights(const std::string& digest) {
  PhaseTimer timer(metrics_->load);
  SA_ASSIGN_OR_RETURN(const std::string blob, store_->GetScratch(job_id_, digest));
  SA_ASSIGN_OR_RETURN(const auto file, ParseSafetensors(blob, digest));
  TokenWeights weights;
  for (const auto& [name, info] : file->tensors()) {
    if (info.dtype != DType::kF32 || info.shape.size() != 3 ||
        (!weights.layers.empty() &&
         info.shape != std::vector<int64_t>{weights.count, weights.length, weights.chunks})) {
      return absl::DataLossError(absl::StrCat("scratch blob ", digest, ": tensor \"", name,
                                              "\": expected F32 of three dimensions, the same for "
                                              "every layer"));
    }
    weights.count = info.shape[0];
    weights.length = info.shape[1];
    weights.chunks = info.shape[2];
    SA_ASSIGN_OR_RETURN(const absl::string_view bytes, file->Bytes(name));
    std::vector<float>& values = weights.layers[name];
    values.resize(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
  }
  return weights;
}

absl::StatusOr<std::string> TokenWeightsBlob(const TokenWeights& weights) {
  std::vector<TensorToWrite> tensors;
  for (const auto& [kind, values] : weights.layers) {
    tensors.push_back(
        {kind,
         DType::kF32,
         {weights.count, weights.length, weights.chunks},
         {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}});
  }
  return WriteSafetensors(std::move(tensors), {});
}

}  // namespace shiftadd
