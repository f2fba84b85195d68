#include "worker/reference/device_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/machine/gpu.h"
#include "worker/reference/device_sum.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

constexpr int64_t kDoubleTokens = 64;  // whose log-probabilities exist together in float64

// s_t of one sequence, [tokens, 1].
at::Tensor Scales(const InputToSum& sum, int64_t sequence, const at::Tensor& x) {
  const int64_t tokens = x.size(0);
  switch (sum.scale) {
    case TokenScale::kGiven:
      return at::from_blob(const_cast<float*>(sum.weights.data() + sequence * tokens), {tokens, 1},
                           at::kFloat)
          .to(x.device());
    case TokenScale::kUnitRms: {
      const at::Tensor inverse = x.to(at::kDouble).square().mean(1, /*keepdim=*/true).reciprocal();
      return at::where(inverse < 1e30, inverse, 0.0).to(at::kFloat);
    }
    case TokenScale::kOne:
      break;
  }
  return at::ones({tokens, 1}, x.options());
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceModel>> DeviceModel::Create(const WeightProvider* weights,
                                                                 int threads, int resident_blocks,
                                                                 Device device) {
  const bool cuda = device == Device::kCuda || device == Device::kCudaMixed;
  const bool mixed = device == Device::kCudaMixed || device == Device::kCpuMixed;
  if (cuda && !HasCuda()) {
    return absl::FailedPreconditionError(
        "device: no CUDA device was found (is the driver there, and libtorch_cuda.so on "
        "LD_LIBRARY_PATH?)");
  }
  return std::unique_ptr<DeviceModel>(new DeviceModel(
      weights, threads, resident_blocks, cuda ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU),
      mixed ? at::kBFloat16 : at::kFloat));
}

DeviceModel::DeviceModel(const WeightProvider* weights, int threads, int resident_blocks,
                         at::Device device, at::ScalarType products)
    : TorchModel(weights, device.is_cuda() ? 1 : threads, resident_blocks, device, products),
      sampling_threads_(threads) {}

void DeviceModel::DropBlocks() {
  TorchModel::DropBlocks();
  DropSampler();
}

at::Tensor DeviceModel::Load(const float* rows, int64_t tokens) const {
  return at::from_blob(const_cast<float*>(rows), {tokens, s_.hidden}, at::kFloat).to(device_);
}

void DeviceModel::Store(const at::Tensor& values, float* rows) const {
  const at::Tensor host = values.cpu().contiguous();
  std::memcpy(rows, host.const_data_ptr<float>(), host.numel() * sizeof(float));
}

absl::Status DeviceModel::Run(int64_t block, HiddenStates* h, int threads, const Visit& visit,
                              TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckRun(block, block + 1, *h));
  DropSampler();
  SA_ASSIGN_OR_RETURN(const BlockWeights* const weights, PrepareBlock(block, h->length));
  RopeTensors rope;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    rope = MakeRopeTensors(rope_, h->length, device_);
    return absl::OkStatus();
  }));
  return ParallelFor(h->count, threads, [&](int64_t sequence) -> absl::Status {
    SA_RETURN_IF_ERROR(Check(control));
    const TensorVisitor show = [&](BlockInput input, const at::Tensor& x) {
      visit(sequence, input, x);
    };
    float* rows = h->data.data() + sequence * h->length * h->hidden;
    const at::Tensor x = Load(rows, h->length);
    Store(BlockForward(s_, *weights, rope, x, visit ? &show : nullptr), rows);
    if (control != nullptr) ++control->progress_count;
    return absl::OkStatus();
  });
}

absl::Status DeviceModel::RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                                   TaskControl* control) {
  if (visitor == nullptr) return Run(block, h, threads_, nullptr, control);
  const Visit show = [&](int64_t sequence, BlockInput input, const at::Tensor& x) {
    const at::Tensor host = x.cpu().contiguous();
    (*visitor)(input, sequence, host.const_data_ptr<float>(), host.size(0), host.size(1));
  };
  return Run(block, h, threads_, show, control);
}

std::unique_ptr<InputSum> DeviceModel::NewInputSum(int64_t k) {
  return std::make_unique<DeviceSum>(k, device_);
}

absl::Status DeviceModel::RunBlockSumming(int64_t block, HiddenStates* h,
                                          const std::vector<InputToSum>& sums,
                                          TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckGiven(sums, *h));
  const Visit add = [&](int64_t sequence, BlockInput input, const at::Tensor& x) {
    for (const InputToSum& sum : sums) {
      if (sum.input != input) continue;
      auto* const to = static_cast<DeviceSum*>(sum.sum);
      if (products_ == at::kFloat) {
        to->Add(x, Scales(sum, sequence, x));
      } else {
        to->AddSquare(Weighed(sum, sequence, h->length, x.to(at::kBFloat16)));
      }
    }
  };
  // One sequence at a time: the sums are in their order.
  return Run(block, h, /*threads=*/1, add, control);
}

absl::Status DeviceModel::VisitInput(int64_t block, BlockInput input, const HiddenStates& h,
                                     const InputVisitor& visitor, TaskControl* control) {
  HiddenStates copy = h;
  const InputVisitor only = [&](BlockInput seen, int64_t sequence, const float* x, int64_t tokens,
                                int64_t width) {
    if (seen == input) visitor(seen, sequence, x, tokens, width);
  };
  return RunBlock(block, &copy, &only, control);
}

absl::StatusOr<std::vector<const BlockWeights*>> DeviceModel::PrepareBlocks(
    int64_t begin, int64_t end, int64_t length, RopeTensors* rope, TaskControl* control) {
  DropSampler();
  std::vector<const BlockWeights*> weights;
  for (int64_t block = begin; block < end; ++block) {
    SA_RETURN_IF_ERROR(Check(control));
    SA_ASSIGN_OR_RETURN(const BlockWeights* const one, PrepareBlock(block, length));
    weights.push_back(one);
    if (control != nullptr) ++control->progress_count;
  }
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    const c10::InferenceMode normal(false);  // autograd may see them
    if (begin < end) *rope = MakeRopeTensors(rope_, length, device_);
    return absl::OkStatus();
  }));
  return weights;
}

absl::Status DeviceModel::RunBlocks(int64_t begin, int64_t end, HiddenStates* h,
                                    TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckRun(begin, end, *h));
  if (!keeps_blocks()) return TorchModel::RunBlocks(begin, end, h, control);
  RopeTensors rope;
  SA_ASSIGN_OR_RETURN(const std::vector<const BlockWeights*> weights,
                      PrepareBlocks(begin, end, h->length, &rope, control));
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

// As TorchModel's, but the inputs of all blocks of a sequence stay on the device.
absl::Status DeviceModel::Guide(const std::vector<int32_t>& tokens, int64_t count, int64_t length,
                                const GuidedOptions& options, TaskControl* control,
                                GuidedStatistics* out) {
  if (!keeps_blocks()) return TorchModel::Guide(tokens, count, length, options, control, out);
  SA_ASSIGN_OR_RETURN(HiddenStates h, Embed(tokens, count, length));
  SA_RETURN_IF_ERROR(CatchTorch([&] { return LoadHead(); }));
  RopeTensors rope;
  SA_ASSIGN_OR_RETURN(const std::vector<const BlockWeights*> weights,
                      PrepareBlocks(0, s_.blocks, length, &rope, control));
  for (int64_t sequence = 0; sequence < count; ++sequence) {
    SA_RETURN_IF_ERROR(CatchTorch([&] {
      const c10::InferenceMode normal(false);
      return GuideSequence(sequence, weights, rope, tokens, options, &h, control, out);
    }));
    if (control != nullptr)
      control->progress = static_cast<double>(sequence + 1) / static_cast<double>(count);
  }
  return absl::OkStatus();
}

absl::Status DeviceModel::GuideSequence(int64_t sequence,
                                        const std::vector<const BlockWeights*>& weights,
                                        const RopeTensors& rope, const std::vector<int32_t>& tokens,
                                        const GuidedOptions& options, HiddenStates* h,
                                        TaskControl* control, GuidedStatistics* out) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const int64_t length = h->length;
  std::vector<at::Tensor> inputs = {Load(h->data.data() + sequence * length * h->hidden, length)};
  {
    const at::NoGradGuard no_grad;
    for (const BlockWeights* block : weights) {
      SA_RETURN_IF_ERROR(Check(control));
      inputs.push_back(BlockForward(s_, *block, rope, inputs.back(), nullptr));
    }
  }
  for (const int64_t block : options.boundary_blocks) {
    HiddenStates state{1, length, s_.hidden, std::vector<float>(length * s_.hidden)};
    Store(inputs.at(block), state.data.data());
    options.boundary(block, sequence, state);
  }
  inputs.back().narrow(0, 0, 1).cpu();  // waits for the device
  const Clock::time_point middle = Clock::now();
  std::vector<int64_t> labels(tokens.begin() + sequence * length + 1,
                              tokens.begin() + (sequence + 1) * length);
  const at::Tensor label = at::from_blob(labels.data(), {length - 1}, at::kLong).to(device_);
  at::Tensor g = LossGradient(s_, head_, inputs.back(), label, ScoreChunk());
  // Copied to the host together: each copy waits for the device.
  std::vector<at::Tensor> squares;
  for (int64_t block = s_.blocks - 1; block >= 0; --block) {
    SA_RETURN_IF_ERROR(Check(control));
    inputs.pop_back();
    std::vector<at::Tensor> of_block(out->blocks[block].layers.size());
    const GradientVisitor visit = [&](size_t layer, const at::Tensor& gradient) {
      of_block[layer] = MeanSquares(gradient, options.chunks);
    };
    g = BlockBackward(s_, *weights[block], rope, inputs.back(), g, visit);
    squares.push_back(at::stack(of_block));
    if (control != nullptr) ++control->progress_count;
  }
  const at::Tensor host =
      at::stack(squares).cpu();  // [blocks from the last, layers, length, chunks]
  const float* from = host.const_data_ptr<float>();
  const int64_t numbers = length * options.chunks;
  for (int64_t block = s_.blocks - 1; block >= 0; --block) {
    for (std::vector<float>& layer : out->blocks[block].layers) {
      std::copy_n(from, numbers, layer.begin() + sequence * numbers);
      from += numbers;
    }
  }
  out->forward_seconds += std::chrono::duration<double>(middle - start).count();
  out->backward_seconds += std::chrono::duration<double>(Clock::now() - middle).count();
  return absl::OkStatus();
}

at::Tensor DeviceModel::HeadLogits(const HiddenStates& h, int64_t sequence, int64_t begin,
                                   int64_t tokens) const {
  const at::Tensor x = Load(h.data.data() + (sequence * h.length + begin) * h.hidden, tokens);
  return TorchHead(s_, head_, x);
}

absl::Status DeviceModel::ScoreTokens(const std::vector<Scored>& models, int64_t sequence,
                                      int64_t begin, const std::vector<int32_t>& labels,
                                      TaskControl* control, SequenceScores* out) {
  SA_RETURN_IF_ERROR(Check(control));
  const int64_t count = static_cast<int64_t>(labels.size());
  const at::Tensor label = at::from_blob(const_cast<int32_t*>(labels.data()), {count, 1}, at::kInt)
                               .to(at::kLong)
                               .to(device_);
  const auto logits = [&](const Scored& scored) {
    const auto* model = static_cast<const DeviceModel*>(scored.model);
    return model->HeadLogits(*scored.hidden, sequence, begin, count);
  };
  // In float64 only a few tokens at a time: at a vocabulary of 128256 a chunk of 512 would take
  // 0.5 GB for each tensor.
  const auto log_softmax = [&](const at::Tensor& of, int64_t first) {
    return at::log_softmax(of.narrow(0, first, std::min(kDoubleTokens, count - first)), -1,
                           at::kDouble);
  };
  const auto nll = [&](const at::Tensor& log_p, int64_t first) {
    return -log_p.gather(1, label.narrow(0, first, log_p.size(0))).sum().item<double>();
  };
  bool finite = true;
  const auto add = [&](double value, double* sum) {
    finite = finite && std::isfinite(value);
    *sum += value;
  };
  const at::Tensor full = logits(models[0]);
  for (int64_t first = 0; first < count; first += kDoubleTokens)
    add(nll(log_softmax(full, first), first), &out->nll_full);
  for (size_t v = 0; v + 1 < models.size(); ++v) {
    const at::Tensor variant = logits(models[v + 1]);
    for (int64_t first = 0; first < count; first += kDoubleTokens) {
      const at::Tensor log_p = log_softmax(full, first), log_q = log_softmax(variant, first);
      add(nll(log_q, first), &out->nll[v]);
      const at::Tensor kl = (log_p.exp() * (log_p - log_q)).sum(-1);
      add(kl.sum().item<double>(), &out->kl[v]);
      if (v > 0) continue;
      const at::Tensor of_tokens = kl.to(at::kFloat).cpu();
      out->token_kl.insert(out->token_kl.end(), of_tokens.const_data_ptr<float>(),
                           of_tokens.const_data_ptr<float>() + of_tokens.numel());
      out->top1_agreements += log_p.argmax(-1).eq(log_q.argmax(-1)).sum().item<int64_t>();
    }
  }
  if (finite) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("evaluation: window ", sequence, ", tokens ",
                                                 begin, " to ", begin + count,
                                                 ": the logits are not finite"));
}

absl::Status DeviceModel::LoadSampler(int64_t length) {
  if (device_sampler_ != nullptr && device_sampler_->length() == length) return absl::OkStatus();
  TorchModel::DropBlocks();
  DropSampler();
  const at::ScalarType type = device_.is_cuda() ? at::kBFloat16 : products_;
  // By what the GPU has, not by what is free: the same model is sampled the same way by every
  // worker with such a GPU.
  const std::optional<Gpu> gpu = device_.is_cuda() ? FindGpu() : std::nullopt;
  if (gpu.has_value() && DeviceSampler::Bytes(s_, type, length) > gpu->memory_bytes / 4 * 3) {
    cpu_sampler_ =
        std::make_unique<TorchModel>(&weights_, sampling_threads_, /*resident_blocks=*/0);
    return absl::OkStatus();
  }
  SA_ASSIGN_OR_RETURN(device_sampler_, DeviceSampler::Create(weights_, device_, type, length));
  return absl::OkStatus();
}

void DeviceModel::DropSampler() {
  device_sampler_.reset();
  cpu_sampler_.reset();
}

absl::StatusOr<std::vector<int32_t>> DeviceModel::Sample(uint64_t seed, int64_t first,
                                                         int64_t count, int64_t length,
                                                         TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckSampling(first, count, length));
  SA_RETURN_IF_ERROR(LoadSampler(length));
  if (cpu_sampler_ != nullptr) return cpu_sampler_->Sample(seed, first, count, length, control);
  std::vector<int32_t> out(count * length);
  SA_RETURN_IF_ERROR(
      device_sampler_->Sample(seed, first, count, length, sampling_threads_, control, out.data()));
  return out;
}

}  // namespace shiftadd::reference
