#include "worker/reference/device_model.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/log_softmax.h>

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {

absl::StatusOr<std::unique_ptr<DeviceModel>> DeviceModel::Create(const WeightProvider* weights,
                                                                 int threads, int resident_blocks,
                                                                 Device device) {
  if (device == Device::kCuda && !HasCuda()) {
    return absl::FailedPreconditionError(
        "device: no CUDA device was found (is the driver there, and libtorch_cuda.so on "
        "LD_LIBRARY_PATH?)");
  }
  return std::unique_ptr<DeviceModel>(
      new DeviceModel(weights, threads, resident_blocks,
                      device == Device::kCuda ? at::Device(at::kCUDA) : at::Device(at::kCPU)));
}

DeviceModel::DeviceModel(const WeightProvider* weights, int threads, int resident_blocks,
                         at::Device device)
    : TorchModel(weights, device.is_cuda() ? 1 : threads, resident_blocks, device),
      sampling_threads_(threads) {}

void DeviceModel::DropBlocks() {
  TorchModel::DropBlocks();
  sampler_.reset();
}

at::Tensor DeviceModel::Load(const float* rows, int64_t tokens) const {
  return at::from_blob(const_cast<float*>(rows), {tokens, s_.hidden}, at::kFloat).to(device_);
}

void DeviceModel::Store(const at::Tensor& values, float* rows) const {
  const at::Tensor host = values.cpu().contiguous();
  std::memcpy(rows, host.const_data_ptr<float>(), host.numel() * sizeof(float));
}

absl::Status DeviceModel::RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                                   TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckRun(block, block + 1, *h));
  sampler_.reset();
  SA_ASSIGN_OR_RETURN(const BlockWeights* const weights, PrepareBlock(block, h->length));
  RopeTensors rope;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    rope = MakeRopeTensors(rope_, h->length, device_);
    return absl::OkStatus();
  }));
  return ParallelFor(h->count, threads_, [&](int64_t sequence) -> absl::Status {
    SA_RETURN_IF_ERROR(Check(control));
    const TensorVisitor show = [&](BlockInput input, const at::Tensor& x) {
      const at::Tensor host = x.cpu().contiguous();
      (*visitor)(input, sequence, host.const_data_ptr<float>(), host.size(0), host.size(1));
    };
    float* rows = h->data.data() + sequence * h->length * h->hidden;
    Store(BlockForward(s_, *weights, rope, Load(rows, h->length),
                       visitor == nullptr ? nullptr : &show),
          rows);
    if (control != nullptr) ++control->progress_count;
    return absl::OkStatus();
  });
}

absl::Status DeviceModel::RunBlocks(int64_t begin, int64_t end, HiddenStates* h,
                                    TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckRun(begin, end, *h));
  if (!blocks_.keeps_all()) return TorchModel::RunBlocks(begin, end, h, control);
  sampler_.reset();
  std::vector<const BlockWeights*> weights;
  for (int64_t block = begin; block < end; ++block) {
    SA_RETURN_IF_ERROR(Check(control));
    SA_ASSIGN_OR_RETURN(const BlockWeights* const one, PrepareBlock(block, h->length));
    weights.push_back(one);
    if (control != nullptr) ++control->progress_count;
  }
  RopeTensors rope;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    if (begin < end) rope = MakeRopeTensors(rope_, h->length, device_);
    return absl::OkStatus();
  }));
  // A sequence stays on the device from its first block to its last.
  return ParallelFor(h->count, threads_, [&](int64_t sequence) -> absl::Status {
    float* rows = h->data.data() + sequence * h->length * h->hidden;
    at::Tensor x = Load(rows, h->length);
    for (const BlockWeights* block : weights) {
      SA_RETURN_IF_ERROR(Check(control));
      x = BlockForward(s_, *block, rope, x, nullptr);
      if (control != nullptr) ++control->progress_count;
    }
    Store(x, rows);
    return absl::OkStatus();
  });
}

at::Tensor DeviceModel::HeadLogits(const HiddenStates& h, int64_t sequence, int64_t begin,
                                   int64_t tokens) const {
  const at::Tensor x = Load(h.data.data() + (sequence * h.length + begin) * h.hidden, tokens);
  return head_(TorchRmsNorm(x, final_norm_, s_.norm_eps));
}

absl::Status DeviceModel::ScoreTokens(const std::vector<Scored>& models, int64_t sequence,
                                      int64_t begin, const std::vector<int32_t>& labels,
                                      TaskControl* control, SequenceScores* out) {
  SA_RETURN_IF_ERROR(Check(control));
  const int64_t count = static_cast<int64_t>(labels.size());
  const at::Tensor label = at::from_blob(const_cast<int32_t*>(labels.data()), {count, 1}, at::kInt)
                               .to(at::kLong)
                               .to(device_);
  const auto log_softmax = [&](const Scored& scored) {
    const auto* model = static_cast<const DeviceModel*>(scored.model);
    return at::log_softmax(model->HeadLogits(*scored.hidden, sequence, begin, count), -1,
                           at::kDouble);
  };
  const auto nll = [&](const at::Tensor& log_p) {
    return -log_p.gather(1, label).sum().item<double>();
  };
  const at::Tensor log_p = log_softmax(models[0]);
  bool finite = true;
  const auto add = [&](double value, double* sum) {
    finite = finite && std::isfinite(value);
    *sum += value;
  };
  add(nll(log_p), &out->nll_full);
  const at::Tensor p = log_p.exp();
  for (size_t v = 0; v + 1 < models.size(); ++v) {
    const at::Tensor log_q = log_softmax(models[v + 1]);
    add(nll(log_q), &out->nll[v]);
    add((p * (log_p - log_q)).sum().item<double>(), &out->kl[v]);
  }
  if (finite) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("evaluation: window ", sequence, ", tokens ",
                                                 begin, " to ", begin + count,
                                                 ": the logits are not finite"));
}

absl::StatusOr<std::vector<int32_t>> DeviceModel::Sample(uint64_t seed, int64_t first,
                                                         int64_t count, int64_t length,
                                                         TaskControl* control) {
  if (sampler_ == nullptr) {
    TorchModel::DropBlocks();
    sampler_ = std::make_unique<TorchModel>(&weights_, sampling_threads_, /*resident_blocks=*/0);
  }
  return sampler_->Sample(seed, first, count, length, control);
}

}  // namespace shiftadd::reference
