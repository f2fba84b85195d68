#include "worker/reference/half_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/device_sum.h"
#include "worker/reference/host_memory.h"
#include "worker/reference/torch_seam.h"
#include "worker/reference/warn.h"

namespace shiftadd::reference {
namespace {

// Tokens of a microbatch, which is whole sequences, at least one. Part of what a job's bytes depend
// on. Products of 8192 rows run at full speed, and what a backward pass of all blocks keeps of them
// still fits beside an 8B model.
constexpr int64_t kMicrobatchTokens = 8192;

class TensorStates : public DeviceStates {
 public:
  TensorStates(at::Tensor x, at::Device device) : x(std::move(x)), device_(device) {}
  bool on_host() const override { return x.device() != device_; }
  const at::Tensor x;  // [count * length, hidden] fp32; never changed

 private:
  const at::Device device_;
};

const at::Tensor& StatesOf(const HiddenStates& h) {
  return static_cast<const TensorStates&>(*h.device).x;
}

at::Tensor FromHost(const float* rows, int64_t tokens, int64_t hidden, at::Device device) {
  return at::from_blob(const_cast<float*>(rows), {tokens, hidden}, at::kFloat).to(device);
}

at::Tensor StatesForCopy(const HiddenStates& h) {
  if (h.device != nullptr) return StatesOf(h);
  return at::from_blob(const_cast<float*>(h.data.data()), {h.count * h.length, h.hidden},
                       at::kFloat);
}

void CopyToHost(const at::Tensor& x, float* rows) {
  at::from_blob(rows, x.sizes(), at::kFloat).copy_(x);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HalfModel>> HalfModel::Create(const WeightProvider* weights,
                                                             int threads, int resident_blocks,
                                                             at::Device device) {
  SA_RETURN_IF_ERROR(RefuseBeyondLlama(weights->spec(), "calibration in half precision"));
  return std::unique_ptr<HalfModel>(new HalfModel(weights, threads, resident_blocks, device));
}

HalfModel::HalfModel(const WeightProvider* weights, int threads, int resident_blocks,
                     at::Device device)
    : TorchModel(weights, threads, resident_blocks, device),
      capacity_(static_cast<size_t>(resident_blocks)),
      stage_(weights, device),
      resident_(*this) {}

HalfModel::~HalfModel() { FreePinned(device_); }

int64_t HalfModel::Together(int64_t length) const {
  return std::max<int64_t>(1, kMicrobatchTokens / length);
}

RopeTensors HalfModel::Rope(int64_t length) {
  PrepareRope(length);
  const c10::InferenceMode normal(false);
  return MakeRopeTensors(rope_, length, device_);
}

absl::StatusOr<const HalfBlock*> HalfModel::Block(int64_t block) {
  for (const auto& [index, kept] : half_blocks_) {
    if (index == block) return kept.get();
  }
  while (capacity_ > 0 && half_blocks_.size() >= capacity_) half_blocks_.pop_back();
  std::shared_ptr<const HalfBlock> read;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    SA_ASSIGN_OR_RETURN(read, ReadHalfBlock(*stage_.Take(block), block, device_));
    return absl::OkStatus();
  }));
  // Where all blocks are kept each is read once, before the work.
  if (capacity_ > 0) stage_.Next(block);
  half_blocks_.emplace_front(block, std::move(read));
  return half_blocks_.front().second.get();
}

at::Tensor HalfModel::ResidentWeights::Find(const std::string& name) const {
  const std::optional<RawTensor> raw = model_.weights_.Raw(name);
  if (!raw.has_value() || raw->dtype != DType::kBF16) return {};
  for (const auto& [index, block] : model_.half_blocks_) {
    const HalfLinear* const linears[] = {&block->q,    &block->k,  &block->v,   &block->o,
                                         &block->gate, &block->up, &block->down};
    const std::vector<LinearLayer> layers = BlockLayers(model_.s_, index);
    for (size_t i = 0; i < layers.size(); ++i) {
      if (layers[i].name == name) return linears[i]->weight;
    }
  }
  return {};
}

absl::Status HalfModel::LoadEnds() {
  if (half_norm_.defined()) return absl::OkStatus();
  return CatchTorch([&]() -> absl::Status {
    SA_ASSIGN_OR_RETURN(half_embed_, ReadToDevice(weights_, "embed", {s_.vocab, s_.hidden},
                                                  at::kBFloat16, device_));
    half_head_ = half_embed_;
    if (!s_.tied_embeddings) {
      SA_ASSIGN_OR_RETURN(half_head_, ReadToDevice(weights_, "head", {s_.vocab, s_.hidden},
                                                   at::kBFloat16, device_));
    }
    SA_ASSIGN_OR_RETURN(half_norm_,
                        ReadToDevice(weights_, "final_norm", {s_.hidden}, at::kFloat, device_));
    return absl::OkStatus();
  });
}

at::Tensor HalfModel::EmbedMicrobatch(const int32_t* tokens, int64_t count) const {
  const at::Tensor index =
      at::from_blob(const_cast<int32_t*>(tokens), {count}, at::kInt).to(device_).to(at::kLong);
  return half_embed_.index_select(0, index).to(at::kFloat);
}

absl::StatusOr<HiddenStates> HalfModel::Embed(const std::vector<int32_t>& tokens, int64_t count,
                                              int64_t length) {
  SA_RETURN_IF_ERROR(CheckTokens(tokens, count, length));
  SA_RETURN_IF_ERROR(LoadEnds());
  HiddenStates h{count, length, s_.hidden, {}, nullptr};
  const absl::Status on_device = CatchTorch([&]() -> absl::Status {
    h.device = StatesFrom(EmbedMicrobatch(tokens.data(), count * length));
    return absl::OkStatus();
  });
  if (!absl::IsResourceExhausted(on_device)) {
    SA_RETURN_IF_ERROR(on_device);
    return h;
  }
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    const at::Tensor rows = HostEmpty({count * length, s_.hidden}, at::kFloat, device_);
    for (int64_t i = 0; i < count; ++i) {
      rows.narrow(0, i * length, length)
          .copy_(EmbedMicrobatch(tokens.data() + i * length, length), /*non_blocking=*/true);
    }
    Settle(device_);
    h.device = StatesFrom(rows);
    return absl::OkStatus();
  }));
  return h;
}

absl::Status HalfModel::ToHost(HiddenStates* h) {
  if (h->device == nullptr) return absl::OkStatus();
  return CatchTorch([&]() -> absl::Status {
    h->data.resize(h->count * h->length * h->hidden);
    CopyToHost(StatesOf(*h), h->data.data());
    h->device = nullptr;
    return absl::OkStatus();
  });
}

absl::StatusOr<at::Tensor> HalfModel::OnDevice(const at::Tensor& host) const {
  at::Tensor x;
  const absl::Status moved = CatchTorch([&]() -> absl::Status {
    const c10::InferenceMode normal(false);
    x = host.to(device_);
    return absl::OkStatus();
  });
  if (absl::IsResourceExhausted(moved)) return host;
  SA_RETURN_IF_ERROR(moved);
  return x;
}

absl::Status HalfModel::ToDevice(HiddenStates* h) {
  if (h->device != nullptr) return absl::OkStatus();
  at::Tensor rows;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    rows = HostEmpty({h->count * h->length, h->hidden}, at::kFloat, device_);
    std::copy(h->data.begin(), h->data.end(), rows.mutable_data_ptr<float>());
    return absl::OkStatus();
  }));
  SA_ASSIGN_OR_RETURN(const at::Tensor x, OnDevice(rows));
  h->device = StatesFrom(x);
  std::vector<float>().swap(h->data);
  return absl::OkStatus();
}

absl::StatusOr<HiddenStates> HalfModel::FromHostCopy(std::shared_ptr<HostCopy> copy, int64_t count,
                                                     int64_t length) {
  SA_ASSIGN_OR_RETURN(const float* const rows, copy->Wait());
  at::Tensor host;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    const c10::InferenceMode normal(false);
    host = at::from_blob(
        const_cast<float*>(rows), {count * length, s_.hidden}, [copy](void*) {}, at::kFloat);
    return absl::OkStatus();
  }));
  SA_ASSIGN_OR_RETURN(const at::Tensor x, OnDevice(host));
  HiddenStates h{count, length, s_.hidden, {}, nullptr};
  h.device = StatesFrom(x);
  return h;
}

absl::StatusOr<std::unique_ptr<HostCopy>> HalfModel::NewHostCopy(int64_t count, int64_t length) {
  std::unique_ptr<HostCopy> copy;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    copy = NewTensorHostCopy(count, length, s_.hidden, device_, StatesForCopy);
    return absl::OkStatus();
  }));
  return copy;
}

std::shared_ptr<const DeviceStates> HalfModel::StatesFrom(const at::Tensor& x) const {
  return std::make_shared<TensorStates>(x, device_);
}

absl::StatusOr<at::Tensor> HalfModel::RoomFor(const HiddenStates& h) const {
  const at::IntArrayRef shape = StatesOf(h).sizes();
  at::Tensor out;
  absl::Status room = absl::ResourceExhaustedError("");
  if (!h.device->on_host()) {
    room = CatchTorch([&]() -> absl::Status {
      out = at::empty(shape, StatesOf(h).options());
      return absl::OkStatus();
    });
  }
  if (absl::IsResourceExhausted(room)) {
    room = CatchTorch([&]() -> absl::Status {
      out = HostEmpty(shape, at::kFloat, device_);
      return absl::OkStatus();
    });
  }
  SA_RETURN_IF_ERROR(room);
  return out;
}

absl::Status HalfModel::Spill(HiddenStates* h, at::Tensor* out) const {
  Warn("a block lacks memory of the device: states wait on the host from here on");
  return CatchTorch([&]() -> absl::Status {
    const auto away = [&](const at::Tensor& x) {
      if (device_.is_cpu() || x.device() != device_) return x;
      const at::Tensor host = HostEmpty(x.sizes(), at::kFloat, device_);
      host.copy_(x, /*non_blocking=*/true);
      return host;
    };
    const at::Tensor states = away(StatesOf(*h));
    if (out->defined()) *out = away(*out);
    Settle(device_);
    h->device = StatesFrom(states);
    return absl::OkStatus();
  });
}

absl::Status HalfModel::RunMicrobatch(const HalfBlock& weights, const RopeTensors& rope,
                                      int64_t first, const Visit& visit, HiddenStates* h,
                                      const at::Tensor& out, Shown* shown) {
  return CatchTorch([&]() -> absl::Status {
    const Microbatch batch{std::min(Together(h->length), h->count - first), h->length};
    const int64_t begin = first * h->length, tokens = batch.count * batch.length;
    int64_t visits = 0;
    const TensorVisitor show = [&](BlockInput input, const at::Tensor& x) {
      if (visits++ < shown->visits) return;
      visit(first, input, x, &shown->parts);
      *shown = {visits, 0};
    };
    float* const rows = h->data.data() + begin * h->hidden;
    const at::Tensor in = h->device != nullptr
                              ? MoveToDevice(StatesOf(*h).narrow(0, begin, tokens), device_)
                              : FromHost(rows, tokens, h->hidden, device_);
    const at::Tensor result =
        HalfForward(s_, weights, rope, batch, in, visit ? &show : nullptr, nullptr);
    if (h->device != nullptr) {
      out.narrow(0, begin, tokens).copy_(result, /*non_blocking=*/true);
    } else {
      CopyToHost(result, rows);
    }
    return absl::OkStatus();
  });
}

absl::Status HalfModel::Run(int64_t block, HiddenStates* h, const Visit& visit,
                            TaskControl* control) {
  if (h->device == nullptr) SA_RETURN_IF_ERROR(CheckRun(block, block + 1, *h));
  at::Tensor out;
  // Once: what does not fit beside states that wait on the host does not fit.
  bool may_spill = h->device != nullptr && !h->device->on_host();
  const auto with_room = [&](const std::function<absl::Status()>& work) -> absl::Status {
    const absl::Status status = work();
    if (!absl::IsResourceExhausted(status) || !std::exchange(may_spill, false)) return status;
    SA_RETURN_IF_ERROR(Spill(h, &out));
    return work();
  };
  const HalfBlock* weights = nullptr;
  SA_RETURN_IF_ERROR(with_room([&]() -> absl::Status {
    SA_ASSIGN_OR_RETURN(weights, Block(block));
    return absl::OkStatus();
  }));
  if (h->device != nullptr) {
    SA_ASSIGN_OR_RETURN(out, RoomFor(*h));
  }
  const auto run = [&]() -> absl::Status {
    RopeTensors rope;
    SA_RETURN_IF_ERROR(with_room([&] {
      return CatchTorch([&]() -> absl::Status {
        rope = Rope(h->length);
        return absl::OkStatus();
      });
    }));
    for (int64_t first = 0; first < h->count; first += Together(h->length)) {
      SA_RETURN_IF_ERROR(Check(control));
      Shown shown;
      SA_RETURN_IF_ERROR(
          with_room([&] { return RunMicrobatch(*weights, rope, first, visit, h, out, &shown); }));
      if (control != nullptr) ++control->progress_count;
    }
    if (h->device == nullptr) return absl::OkStatus();
    return CatchTorch([&]() -> absl::Status {
      if (out.device() != device_) Settle(device_);
      h->device = StatesFrom(out);
      return absl::OkStatus();
    });
  };
  return Annotate(run(), absl::StrCat("block ", block, " in bf16, microbatches of ",
                                      Together(h->length) * h->length, " tokens"));
}

absl::Status HalfModel::RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                                 TaskControl* control) {
  if (visitor == nullptr) return Run(block, h, nullptr, control);
  const int64_t length = h->length;
  return Run(
      block, h,
      [&](int64_t first, BlockInput input, const at::Tensor& x, int64_t* done) {
        const at::Tensor host = x.to(at::kFloat).cpu().contiguous();
        for (; *done * length < host.size(0); ++*done) {
          (*visitor)(input, first + *done,
                     host.const_data_ptr<float>() + *done * length * host.size(1), length,
                     host.size(1));
        }
      },
      control);
}

absl::Status HalfModel::RunBlocks(int64_t begin, int64_t end, HiddenStates* h,
                                  TaskControl* control) {
  for (int64_t block = begin; block < end; ++block)
    SA_RETURN_IF_ERROR(RunBlock(block, h, nullptr, control));
  return absl::OkStatus();
}

absl::Status HalfModel::VisitInput(int64_t block, BlockInput input, const HiddenStates& h,
                                   const InputVisitor& visitor, TaskControl* control) {
  HiddenStates copy = h;
  const InputVisitor only = [&](BlockInput seen, int64_t sequence, const float* x, int64_t tokens,
                                int64_t width) {
    if (seen == input) visitor(seen, sequence, x, tokens, width);
  };
  return RunBlock(block, &copy, &only, control);
}

std::unique_ptr<InputSum> HalfModel::NewInputSum(int64_t k) {
  return std::make_unique<DeviceSum>(k, device_);
}

absl::Status HalfModel::RunBlockSumming(int64_t block, HiddenStates* h,
                                        const std::vector<InputToSum>& sums, TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckGiven(sums, *h));
  return Run(
      block, h,
      [&](int64_t first, BlockInput input, const at::Tensor& x, int64_t* done) {
        for (; *done < static_cast<int64_t>(sums.size()); ++*done) {
          const InputToSum& sum = sums[static_cast<size_t>(*done)];
          if (sum.input != input) continue;
          static_cast<DeviceSum*>(sum.sum)->AddSquare(Weighed(sum, first, h->length, x));
        }
      },
      control);
}

}  // namespace shiftadd::reference
