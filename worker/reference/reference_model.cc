#include "worker/reference/reference_model.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/status_macros.h"
#include "worker/reference/device_model.h"
#include "worker/reference/half_model.h"
#include "worker/reference/torch_model.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd {
namespace {

absl::Status CheckSpec(const ArchitectureSpec& s) {
  const std::pair<const char*, int64_t> positive[] = {
      {"vocab", s.vocab},      {"hidden", s.hidden}, {"intermediate", s.intermediate},
      {"blocks", s.blocks},    {"heads", s.heads},   {"kv_heads", s.kv_heads},
      {"head_dim", s.head_dim}};
  for (const auto& [name, value] : positive) {
    if (value < 1)
      return absl::InvalidArgumentError(absl::StrCat("architecture: ", name, " is ", value));
  }
  if (s.heads % s.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "architecture: heads (", s.heads, ") is not a multiple of kv_heads (", s.kv_heads, ")"));
  }
  if (s.rope() && s.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("architecture: head_dim is odd: ", s.head_dim));
  }
  return absl::OkStatus();
}

absl::Status CheckNames(const WeightProvider& weights) {
  const ArchitectureSpec& s = weights.spec();
  std::vector<std::string> names = {"embed"};
  if (!s.tied_embeddings) names.push_back("head");
  for (const PlainTensor& tensor : PlainTensors(s)) names.push_back(tensor.name);
  for (int64_t block = 0; block < s.blocks; ++block) {
    for (const LinearLayer& layer : BlockLayers(s, block)) names.push_back(layer.name);
  }
  names.erase(std::remove_if(names.begin(), names.end(),
                             [&](const std::string& n) { return weights.Has(n); }),
              names.end());
  if (names.empty()) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("the model lacks ", names.size(), " tensors: ", absl::StrJoin(names, ", ")));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReferenceModel>> ReferenceModel::Create(
    const WeightProvider* weights, int threads, int resident_blocks, Device device) {
  if (threads < 1 || resident_blocks < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("reference model: threads ", threads, ", resident_blocks ", resident_blocks));
  }
  SA_RETURN_IF_ERROR(CheckSpec(weights->spec()));
  SA_RETURN_IF_ERROR(CheckNames(*weights));
  InitTorch();
  if (!BeyondLlama(weights->spec()).empty()) {
    if (device == Device::kCudaHalf) device = Device::kCudaMixed;
    if (device == Device::kCpuHalf) device = Device::kCpuMixed;
  }
  if (device == Device::kCudaHalf || device == Device::kCpuHalf) {
    if (device == Device::kCudaHalf && !HasCuda())
      return absl::FailedPreconditionError("device: no CUDA device was found");
    SA_ASSIGN_OR_RETURN(auto model,
                        reference::HalfModel::Create(
                            weights, threads, resident_blocks,
                            device == Device::kCudaHalf ? at::Device(at::kCUDA, 0) : at::kCPU));
    return std::unique_ptr<ReferenceModel>(std::move(model));
  }
  if (device != Device::kCpu) {
    SA_ASSIGN_OR_RETURN(auto model,
                        reference::DeviceModel::Create(weights, threads, resident_blocks, device));
    return std::unique_ptr<ReferenceModel>(std::move(model));
  }
  return std::unique_ptr<ReferenceModel>(
      std::make_unique<reference::TorchModel>(weights, threads, resident_blocks));
}

}  // namespace shiftadd
