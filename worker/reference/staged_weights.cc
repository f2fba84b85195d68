#include "worker/reference/staged_weights.h"

#include <cstring>
#include <exception>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/host_memory.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

at::Tensor StagedBytes(const void* data, size_t bytes, at::Device device) {
  const at::Tensor out = HostEmpty({static_cast<int64_t>(bytes)}, at::kByte, device);
  std::memcpy(out.mutable_data_ptr<uint8_t>(), data, bytes);
  return out;
}

// Every tensor of a block that a model may ask for.
std::vector<std::string> BlockNames(const WeightProvider& weights, int64_t block) {
  const std::string prefix = absl::StrCat("blocks.", block, ".");
  std::vector<std::string> names;
  for (const PlainTensor& tensor : PlainTensors(weights.spec())) {
    if (tensor.name.compare(0, prefix.size(), prefix) == 0) names.push_back(tensor.name);
  }
  for (const LinearLayer& layer : BlockLayers(weights.spec(), block)) names.push_back(layer.name);
  return names;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const StagedWeights>> StagedWeights::Read(
    const WeightProvider& weights, const std::vector<std::string>& names, at::Device device) {
  std::shared_ptr<StagedWeights> out(new StagedWeights(weights));
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    for (const std::string& name : names) {
      if (const std::optional<RawTensor> raw = weights.Raw(name); raw.has_value()) {
        out->staged_[name] = {raw->dtype,
                              StagedBytes(raw->bytes.data(), raw->bytes.size(), device)};
        continue;
      }
      SA_ASSIGN_OR_RETURN(const std::vector<float> values, weights.Read(name));
      out->staged_[name] = {DType::kF32,
                            StagedBytes(values.data(), values.size() * sizeof(float), device)};
    }
    return absl::OkStatus();
  }));
  return std::shared_ptr<const StagedWeights>(std::move(out));
}

std::optional<RawTensor> StagedWeights::Raw(const std::string& name) const {
  const auto found = staged_.find(name);
  if (found == staged_.end()) return weights_.Raw(name);
  const auto& [dtype, bytes] = found->second;
  return RawTensor{dtype,
                   {reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()),
                    static_cast<size_t>(bytes.numel())}};
}

std::shared_ptr<const WeightProvider> BlockStage::Take(int64_t block) {
  // What failed ahead of time is read again, and then says so.
  if (reading_.valid()) {
    auto read = reading_.get();
    if (staged_ == block && read.ok()) return *std::move(read);
  }
  return {std::shared_ptr<const WeightProvider>(), &weights_};
}

void BlockStage::Next(int64_t block) {
  const int64_t next = last_ > block ? block - 1 : block + 1;
  last_ = block;
  if (next < 0 || next >= weights_.spec().blocks) return;
  staged_ = next;
  try {
    reading_ = std::async(std::launch::async, [this, next] {
      return StagedWeights::Read(weights_, BlockNames(weights_, next), device_);
    });
  } catch (const std::exception&) {
    // No thread to be had: read when it is asked for.
  }
}

}  // namespace shiftadd::reference
