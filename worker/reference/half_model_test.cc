// The model in bf16 against the CPU executor in fp32: on the CPU, and on CUDA where there is one.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Storage.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "worker/reference/device_sum.h"
#include "worker/reference/device_tensors.h"
#include "worker/reference/host_memory.h"
#include "worker/reference/reference_model.h"
#include "worker/reference/testing/difference.h"
#include "worker/reference/testing/random_model.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd {
namespace {

using testing::Difference;
using testing::RandomModel;
using testing::RandomTokens;
using testing::TinySpec;

class HalfModelTest : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    spec_ = TinySpec();
    spec_.blocks = 3;
    spec_.qkv_bias = true;
    weights_ = std::make_unique<RandomModel>(spec_, 1);
    cpu_ = ReferenceModel::Create(weights_.get(), 1, 0).value();
    auto created = ReferenceModel::Create(weights_.get(), 1, 0, GetParam());
    if (created.status().code() == absl::StatusCode::kFailedPrecondition)
      GTEST_SKIP() << created.status();
    half_ = *std::move(created);
    few_ = ReferenceModel::Create(weights_.get(), 1, 1, GetParam()).value();
    tokens_ = RandomTokens(2, kCount * kLength, spec_.vocab);
  }

  static constexpr int64_t kCount = 35, kLength = 300;  // more than one microbatch
  ArchitectureSpec spec_;
  std::unique_ptr<RandomModel> weights_;
  std::unique_ptr<ReferenceModel> cpu_, half_, few_;
  std::vector<int32_t> tokens_;
};

TEST_P(HalfModelTest, RunsBlocksNearFullPrecision) {
  HiddenStates expected = cpu_->Embed(tokens_, kCount, kLength).value();
  HiddenStates found = half_->Embed(tokens_, kCount, kLength).value();
  ASSERT_TRUE(cpu_->RunBlocks(0, 3, &expected, nullptr).ok());
  HiddenStates on_host = found;
  ASSERT_TRUE(half_->ToHost(&on_host).ok());
  ASSERT_TRUE(half_->RunBlocks(0, 3, &found, nullptr).ok());
  ASSERT_TRUE(half_->ToHost(&found).ok());
  EXPECT_LT(Difference(found.data, expected.data), 0.02);
  // States that wait on the host go the same way, and those that came back from there.
  HiddenStates returned = on_host;
  ASSERT_TRUE(half_->ToDevice(&returned).ok());
  EXPECT_NE(returned.device, nullptr);
  EXPECT_TRUE(returned.data.empty());
  ASSERT_TRUE(half_->RunBlocks(0, 3, &returned, nullptr).ok());
  ASSERT_TRUE(half_->ToHost(&returned).ok());
  EXPECT_EQ(returned.data, found.data);
  ASSERT_TRUE(half_->RunBlocks(0, 3, &on_host, nullptr).ok());
  EXPECT_EQ(on_host.data, found.data);
}

TEST_P(HalfModelTest, TokenWeightsAreNearAndDoNotDependOnWhatIsKept) {
  GuidedOptions options;
  options.chunks = 2;
  options.boundary_blocks = {1};
  const std::shared_ptr<HostCopy> kept = half_->NewHostCopy(kCount, kLength).value();
  const std::shared_ptr<HostCopy> read = few_->NewHostCopy(kCount, kLength).value();
  std::shared_ptr<HostCopy> to = kept;
  options.boundary = [&](int64_t, int64_t first, const HiddenStates& h) {
    EXPECT_TRUE(to->Add(first, h).ok());
  };
  const auto found = half_->TokenWeights(tokens_, kCount, kLength, options, nullptr).value();
  to = read;
  const auto again = few_->TokenWeights(tokens_, kCount, kLength, options, nullptr).value();
  HiddenStates h = half_->Embed(tokens_, kCount, kLength).value();
  ASSERT_TRUE(half_->RunBlock(0, &h, nullptr, nullptr).ok());
  ASSERT_TRUE(half_->ToHost(&h).ok());
  for (const auto& copy : {kept, read}) {
    const float* const rows = copy->Wait().value();
    EXPECT_EQ(std::vector<float>(rows, rows + h.data.size()), h.data);
    // As states again.
    HiddenStates returned = half_->FromHostCopy(copy, kCount, kLength).value();
    EXPECT_FALSE(returned.device->on_host());
    ASSERT_TRUE(half_->ToHost(&returned).ok());
    EXPECT_EQ(returned.data, h.data);
  }
  const auto expected = cpu_->TokenWeights(tokens_, kCount, kLength, options, nullptr).value();
  for (size_t b = 0; b < 3; ++b) {
    EXPECT_EQ(again.blocks[b].layers, found.blocks[b].layers);
    for (size_t l = 0; l < 7; ++l) {
      EXPECT_LT(Difference(found.blocks[b].layers[l], expected.blocks[b].layers[l]), 0.03)
          << b << " " << l;
    }
  }
}

TEST_P(HalfModelTest, SumsTheSquaresOfItsInputs) {
  std::vector<float> weights(tokens_.size());
  for (size_t t = 0; t < weights.size(); ++t) weights[t] = 0.01f * static_cast<float>(t % 7);
  HiddenStates h = half_->Embed(tokens_, kCount, kLength).value(), again = h;
  std::vector<double> expected(48 * 48, 0.0);
  const InputVisitor visitor = [&](BlockInput input, int64_t sequence, const float* x, int64_t n,
                                   int64_t width) {
    if (input != BlockInput::kMlp) return;
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t i = 0; i < width; ++i) {
        for (int64_t j = i; j < width; ++j) {
          expected[i * width + j] +=
              double{weights[sequence * kLength + t]} * x[t * width + i] * x[t * width + j];
        }
      }
    }
  };
  ASSERT_TRUE(half_->RunBlock(1, &h, &visitor, nullptr).ok());
  const auto sum = half_->NewInputSum(48);
  EXPECT_TRUE(sum->Zero().value());
  ASSERT_TRUE(half_
                  ->RunBlockSumming(1, &again,
                                    {{BlockInput::kMlp, TokenScale::kGiven, weights, sum.get()}},
                                    nullptr)
                  .ok());
  EXPECT_TRUE(sum->Finite().value());
  EXPECT_FALSE(sum->Zero().value());
  const std::vector<double> found = sum->Take().value();
  for (int64_t i = 0; i < 48; ++i) {
    for (int64_t j = i; j < 48; ++j) {
      // sqrt(s) x is rounded to bf16: 2^-9 a factor, which averages out over tokens.
      const double bound = 1e-3 * std::sqrt(expected[i * 49] * expected[j * 49]);
      EXPECT_NEAR(found[i * 48 + j], expected[i * 48 + j], bound);
    }
  }
}

// A model whose tensors lie in bf16 in its file.
class Bf16Model : public RandomModel {
 public:
  explicit Bf16Model(const ArchitectureSpec& spec) : RandomModel(spec, 1) {
    for (auto& [name, values] : tensors) {
      std::vector<uint16_t>& raw = raw_[name];
      for (float& value : values) {
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof(bits));
        raw.push_back(static_cast<uint16_t>(bits >> 16));
        bits &= 0xffff0000u;
        std::memcpy(&value, &bits, sizeof(bits));
      }
    }
  }
  std::optional<RawTensor> Raw(const std::string& name) const override {
    const std::vector<uint16_t>& raw = raw_.at(name);
    return RawTensor{DType::kBF16,
                     {reinterpret_cast<const char*>(raw.data()), raw.size() * sizeof(uint16_t)}};
  }

 private:
  std::map<std::string, std::vector<uint16_t>> raw_;
};

// Whether blocks are all kept, or read one by one, the next ahead; from plain tensors or others.
TEST_P(HalfModelTest, BlocksReadAheadAreTheSame) {
  const Bf16Model plain(spec_);
  RandomModel dequantized(spec_, 1);
  dequantized.tensors = plain.tensors;
  const std::vector<int32_t> few(tokens_.begin(), tokens_.begin() + 3 * kLength);
  std::vector<GuidedStatistics> all;
  std::vector<std::vector<float>> states;
  for (const WeightProvider* weights : {static_cast<const WeightProvider*>(&plain),
                                        static_cast<const WeightProvider*>(&dequantized)}) {
    for (const int resident : {0, 1}) {
      const auto model = ReferenceModel::Create(weights, 1, resident, GetParam()).value();
      all.push_back(model->TokenWeights(few, 3, kLength, {}, nullptr).value());
      HiddenStates h = model->Embed(few, 3, kLength).value();
      for (int64_t block : {0, 1, 2}) {
        ASSERT_TRUE(model->RunBlock(block, &h, nullptr, nullptr).ok());
        // What the quantizer reads beside it.
        const std::string name = "blocks." + std::to_string(block) + ".mlp.up";
        EXPECT_EQ(model->weights().Read(name).value(), plain.tensors.at(name));
      }
      ASSERT_TRUE(model->ToHost(&h).ok());
      states.push_back(h.data);
    }
  }
  for (size_t i = 1; i < all.size(); ++i) {
    EXPECT_EQ(states[i], states[0]) << i;
    for (size_t b = 0; b < 3; ++b) EXPECT_EQ(all[i].blocks[b].layers, all[0].blocks[b].layers) << i;
  }
}

TEST_P(HalfModelTest, WeightsOnTheDeviceAreTheSources) {
  const Bf16Model source(spec_);
  const auto model = ReferenceModel::Create(&source, 1, 1, GetParam()).value();
  HiddenStates h = model->Embed({tokens_.begin(), tokens_.begin() + kLength}, 1, kLength).value();
  ASSERT_TRUE(model->RunBlock(1, &h, nullptr, nullptr).ok());
  const at::Device device = GetParam() == Device::kCudaHalf ? at::Device(at::kCUDA, 0) : at::kCPU;
  for (const LinearLayer& layer : BlockLayers(spec_, 1)) {
    const auto found = reference::ReadToDevice(model->weights(), layer.name,
                                               {layer.rows, layer.cols}, at::kFloat, device);
    ASSERT_TRUE(found.ok()) << found.status();
    const at::Tensor host = found->cpu().contiguous();
    const float* const values = host.const_data_ptr<float>();
    EXPECT_EQ(std::vector<float>(values, values + host.numel()), source.tensors.at(layer.name));
  }
  // Those of a block that is there are not read; of another one they are.
  const auto reads = [&](const char* name) {
    const auto* resident = dynamic_cast<const reference::ResidentTensors*>(&model->weights());
    return !resident->Find(name).defined();
  };
  EXPECT_FALSE(reads("blocks.1.mlp.up"));
  EXPECT_TRUE(reads("blocks.0.mlp.up"));
  EXPECT_TRUE(reads("blocks.1.attn_norm"));
  // Rounded ones are not what the source has.
  ASSERT_TRUE(half_->RunBlock(1, &h, nullptr, nullptr).ok());
  EXPECT_FALSE(dynamic_cast<const reference::ResidentTensors&>(half_->weights())
                   .Find("blocks.1.mlp.up")
                   .defined());
}

// Long enough that a GPU's attention adds the gradients of many blocks of queries.
TEST_P(HalfModelTest, GradientsOfLongSequencesRepeat) {
  constexpr int64_t kSequences = 2, kTokens = 2048;
  ArchitectureSpec spec = TinySpec();
  spec.hidden = 256, spec.heads = 4, spec.kv_heads = 2, spec.head_dim = 64;
  spec.context = kTokens;
  const RandomModel weights(spec, 3);
  const auto model = ReferenceModel::Create(&weights, 1, 0, GetParam()).value();
  const std::vector<int32_t> tokens = RandomTokens(4, kSequences * kTokens, spec.vocab);
  const auto first = model->TokenWeights(tokens, kSequences, kTokens, {}, nullptr).value();
  for (int i = 0; i < 3; ++i) {
    const auto again = model->TokenWeights(tokens, kSequences, kTokens, {}, nullptr).value();
    for (size_t b = 0; b < first.blocks.size(); ++b) {
      EXPECT_EQ(again.blocks[b].layers, first.blocks[b].layers) << i << " " << b;
    }
  }
}

// Memory that runs out in the middle of a block: states are spilled, what was shown is not shown
// again, and no number changes.
TEST_P(HalfModelTest, ABlockWithoutRoomGoesOnBesideSpilledStates) {
  using Seen = std::tuple<BlockInput, int64_t, std::vector<float>>;
  // Fails for the `fail`th call (from 0) and the `times` - 1 that follow.
  const auto run = [&](int fail, int times, std::vector<Seen>* seen, HiddenStates* h) {
    *h = half_->Embed(tokens_, kCount, kLength).value();
    int calls = 0;
    const InputVisitor visitor = [&](BlockInput input, int64_t sequence, const float* x, int64_t n,
                                     int64_t width) {
      const int call = calls++;
      if (call >= fail && call < fail + times) throw std::bad_alloc();
      seen->emplace_back(input, sequence, std::vector<float>(x, x + n * width));
    };
    return half_->RunBlock(1, h, &visitor, nullptr);
  };
  std::vector<Seen> plain;
  HiddenStates expected;
  ASSERT_TRUE(run(1 << 30, 0, &plain, &expected).ok());
  ASSERT_TRUE(half_->ToHost(&expected).ok());
  for (int fail = 0; fail < static_cast<int>(plain.size()); fail += 13) {
    std::vector<Seen> seen;
    HiddenStates h;
    const absl::Status status = run(fail, 1, &seen, &h);
    ASSERT_TRUE(status.ok()) << fail << " " << status;
    EXPECT_EQ(h.device->on_host(), GetParam() == Device::kCudaHalf);
    ASSERT_TRUE(half_->ToHost(&h).ok());
    EXPECT_EQ(h.data, expected.data) << fail;
    EXPECT_EQ(seen, plain) << fail;
  }
  std::vector<Seen> seen;
  HiddenStates h;
  EXPECT_EQ(run(3, 2, &seen, &h).code(), absl::StatusCode::kResourceExhausted);
}

TEST_P(HalfModelTest, TokenWeightsWithoutRoomAreMadeAgainOnTheHost) {
  GuidedOptions options;
  options.boundary_blocks = {1, 2};
  std::vector<std::pair<int64_t, int64_t>> shown;
  int fail = -1;  // at this call
  int failures = 0;
  options.boundary = [&](int64_t block, int64_t first, const HiddenStates&) {
    if (static_cast<int>(shown.size()) == fail && failures-- > 0) throw std::bad_alloc();
    shown.emplace_back(block, first);
  };
  const auto run = [&](int at, int times) {
    shown.clear();
    fail = at;
    failures = times;
    return half_->TokenWeights(tokens_, kCount, kLength, options, nullptr);
  };
  const auto plain = run(-1, 0).value();
  const auto plain_shown = shown;
  ASSERT_GE(plain_shown.size(), 2u);
  for (int at = 0; at < static_cast<int>(plain_shown.size()); ++at) {
    const auto again = run(at, 1);
    ASSERT_TRUE(again.ok()) << again.status();
    for (size_t b = 0; b < plain.blocks.size(); ++b) {
      EXPECT_EQ(again->blocks[b].layers, plain.blocks[b].layers) << at;
    }
    EXPECT_EQ(shown, plain_shown) << at;
  }
  EXPECT_EQ(run(1, 2).status().code(), absl::StatusCode::kResourceExhausted);
}

// The CPU's memory for tensors, of which one allocation fails.
class ScarceMemory : public c10::Allocator {
 public:
  ScarceMemory() : before_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, 255); }
  ~ScarceMemory() override { c10::SetCPUAllocator(before_, 255); }
  // The `fail`th from now on (from 0); none if negative.
  void Fail(int64_t fail) {
    fail_ = fail;
    allocations_ = 0;
  }
  int64_t allocations() const { return allocations_; }

  c10::DataPtr allocate(size_t bytes) override {
    if (allocations_++ == fail_) throw std::bad_alloc();
    return before_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return before_->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  c10::Allocator* const before_;
  std::atomic<int64_t> fail_{-1}, allocations_{0};
};

// Whichever allocation of a block fails: the same states, and each input in the sums once.
TEST(HalfModelMemory, SumsOfABlockThatLackedMemoryAreTheSame) {
  ArchitectureSpec spec = TinySpec();
  const RandomModel weights(spec, 1);
  const auto model = ReferenceModel::Create(&weights, 1, 0, Device::kCpuHalf).value();
  constexpr int64_t kSequences = 5, kTokens = 40;
  const std::vector<int32_t> tokens = RandomTokens(2, kSequences * kTokens, spec.vocab);
  const HiddenStates begin = model->Embed(tokens, kSequences, kTokens).value();
  ScarceMemory memory;
  struct Outcome {
    absl::Status status;
    std::vector<float> states;
    std::vector<double> attention, mlp;
  };
  const auto run = [&](int64_t fail) {
    Outcome out;
    HiddenStates h = begin;
    const auto attention = model->NewInputSum(spec.hidden), mlp = model->NewInputSum(spec.hidden);
    memory.Fail(fail);
    out.status =
        model->RunBlockSumming(1, &h,
                               {{BlockInput::kAttn, TokenScale::kUnitRms, {}, attention.get()},
                                {BlockInput::kMlp, TokenScale::kOne, {}, mlp.get()}},
                               nullptr);
    memory.Fail(-1);
    if (!out.status.ok()) return out;
    EXPECT_TRUE(model->ToHost(&h).ok());
    out.states = h.data;
    out.attention = attention->Take().value();
    out.mlp = mlp->Take().value();
    return out;
  };
  run(-1);  // reads the block
  memory.Fail(-1);
  HiddenStates counted = begin;
  ASSERT_TRUE(model->RunBlock(1, &counted, nullptr, nullptr).ok());
  const int64_t count = 2 * memory.allocations();  // the sums need some more
  ASSERT_GT(count, 20);
  const Outcome plain = run(-1);
  ASSERT_TRUE(plain.status.ok()) << plain.status;
  for (int64_t fail = 0; fail < count; ++fail) {
    const Outcome scarce = run(fail);
    ASSERT_TRUE(scarce.status.ok()) << fail << " " << scarce.status;
    EXPECT_EQ(scarce.states, plain.states) << fail;
    EXPECT_EQ(scarce.attention, plain.attention) << fail;
    EXPECT_EQ(scarce.mlp, plain.mlp) << fail;
  }
}

// A band of a sum that finds no memory is added by the next call, those before it once.
TEST(HalfModelMemory, ASumGoesOnWhereMemoryRanOut) {
  InitTorch();
  const int64_t k = 1100;  // two bands
  const at::Tensor y = at::ones({2, k}, at::kBFloat16);
  ScarceMemory memory;
  memory.Fail(-1);
  reference::DeviceSum plain(k, at::kCPU);
  plain.AddSquare(y);
  const int64_t count = memory.allocations();
  ASSERT_GT(count, 4);
  for (int64_t fail = 0; fail < count; ++fail) {
    reference::DeviceSum sum(k, at::kCPU);
    memory.Fail(fail);
    EXPECT_THROW(sum.AddSquare(y), std::bad_alloc) << fail;
    sum.AddSquare(y);
    memory.Fail(-1);
    const std::vector<double> found = sum.Take().value();
    for (const int64_t i : {int64_t{0}, int64_t{1023}, int64_t{1024}, k - 1}) {
      EXPECT_EQ(found[i * k + k - 1], 2.0) << fail << " " << i;
      EXPECT_EQ(found[i * k + i], 2.0) << fail << " " << i;
    }
  }
}

int g_freed = 0;
void FreeAndThrow(void* memory) {
  ++g_freed;
  std::free(memory);
  throw std::runtime_error("CUDA error: unspecified launch failure");
}

// As pinned memory is freed on a device that is lost.
TEST(HostMemory, FreeingNeverThrows) {
  for (int i = 1; i <= 3; ++i) {
    void* const memory = std::malloc(64);
    c10::Storage storage(c10::Storage::use_byte_size_t(), 64,
                         c10::DataPtr(memory, memory, &FreeAndThrow, c10::Device(at::kCPU)));
    at::Tensor x = at::empty({0}, at::kByte).set_(std::move(storage), 0, {64}, {1});
    x = reference::FreedQuietly(std::move(x));
    x = reference::FreedQuietly(std::move(x));  // once is enough
    at::Tensor view = x.narrow(0, 8, 8);
    x.reset();
    EXPECT_EQ(g_freed, i - 1);
    view.reset();
    EXPECT_EQ(g_freed, i);
  }
}

// A kernel that goes astray takes the device from the process, which frees what it holds and says
// what happened.
void LoseTheDevice() {
  InitTorch();
  const at::Device device(at::kCUDA, 0);
  const at::TensorOptions on_device(device);
  at::Tensor host = reference::HostEmpty({1 << 20}, at::kFloat, device);
  host.copy_(at::ones({1 << 20}, on_device), /*non_blocking=*/true);  // freeing asks for an event
  const absl::Status astray = CatchTorch([&]() -> absl::Status {
    at::ones({4, 4}, on_device).index_select(0, at::full({1}, 100, on_device.dtype(at::kLong)));
    reference::Settle(device);
    return absl::OkStatus();
  });
  const absl::Status lost = CheckCuda();
  host.reset();
  reference::FreePinned(device);
  std::fprintf(stderr, "astray: %s\nlost: %s\n", std::string(astray.message()).c_str(),
               std::string(lost.message()).c_str());
  std::_Exit(astray.ok() || lost.ok() ? 1 : 0);
}

TEST(LostDeviceDeathTest, WhatItHeldIsFreedWithoutEndingTheProcess) {
  InitTorch();
  if (!HasCuda()) GTEST_SKIP() << "no CUDA device";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(LoseTheDevice(), ::testing::ExitedWithCode(0), "lost: LibTorch: CUDA error");
}

// All of the GPU's memory but `left` bytes, while it lives.
class Hog {
 public:
  explicit Hog(int64_t left) {
    c10::DeviceAllocator* const allocator = c10::getDeviceAllocator(at::kCUDA);
    allocator->emptyCache();
    const int64_t free = static_cast<int64_t>(allocator->getMemoryInfo(0).first);
    memory_ = at::empty({std::max<int64_t>(free - left, 1)},
                        at::TensorOptions(at::kByte).device(at::kCUDA));
  }

 private:
  at::Tensor memory_;
};

// States that device memory does not hold wait on the host: at once, or from a block on whose
// output, or whose work, finds no room. The same numbers.
TEST(HalfModelMemory, StatesWaitOnTheHost) {
  constexpr int64_t kSequences = 128, kTokens = 2048, kMiB = 1 << 20;
  ArchitectureSpec spec = TinySpec();
  spec.hidden = 256, spec.heads = 4, spec.kv_heads = 2, spec.head_dim = 64;
  spec.context = kTokens;
  const RandomModel weights(spec, 5);
  auto created = ReferenceModel::Create(&weights, 1, 0, Device::kCudaHalf);
  if (created.status().code() == absl::StatusCode::kFailedPrecondition)
    GTEST_SKIP() << created.status();
  ReferenceModel& model = **created;
  const std::vector<int32_t> tokens = RandomTokens(6, kSequences * kTokens, spec.vocab);
  const auto run = [&](bool* stayed) {
    HiddenStates h = model.Embed(tokens, kSequences, kTokens).value();
    const absl::Status status = model.RunBlocks(0, spec.blocks, &h, nullptr);
    EXPECT_TRUE(status.ok()) << status;
    *stayed = !h.device->on_host();
    EXPECT_TRUE(model.ToHost(&h).ok());
    return h.data;
  };
  bool stayed = false;
  const std::vector<float> expected = run(&stayed);
  EXPECT_TRUE(stayed);
  // States are 256 MiB. Beside twice that hardly anything is left to compute with, but for what the
  // allocator keeps between its blocks: they may stay or not.
  for (const int64_t left : {514 * kMiB, 448 * kMiB, 224 * kMiB}) {
    const Hog hog(left);
    EXPECT_EQ(run(&stayed), expected) << left;
    EXPECT_TRUE(!stayed || left > 512 * kMiB) << left;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, HalfModelTest,
                         ::testing::Values(Device::kCpuHalf, Device::kCudaHalf));

}  // namespace
}  // namespace shiftadd
