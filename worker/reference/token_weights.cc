// TorchModel::TokenWeights: forward keeping the input of every block, then backward.
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/torch_block.h"
#include "worker/reference/torch_model.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

absl::Status CheckChunks(const ArchitectureSpec& s, int64_t chunks) {
  for (const LinearLayer& layer : BlockLayers(s, 0)) {
    if (chunks < 1 || chunks > layer.rows) {
      return absl::InvalidArgumentError(absl::StrCat("token weights: ", chunks,
                                                     " chunks, expected 1 to ", layer.rows,
                                                     ", the rows of layer ", layer.kind));
    }
  }
  return absl::OkStatus();
}

// Moves a TaskControl's progress by one block of one sequence, forward or backward.
class Progress {
 public:
  Progress(TaskControl* control, int64_t steps) : control_(control), steps_(steps) {}
  absl::Status Check() const { return reference::Check(control_); }
  void Forward(int64_t sequences) { Move(sequences); }  // RunBlock has moved progress_count
  void Backward() {
    if (control_ != nullptr) ++control_->progress_count;
    Move(1);
  }

 private:
  void Move(int64_t count) {
    if (control_ == nullptr) return;
    const int64_t done = done_ += count;
    control_->progress = static_cast<double>(done) / static_cast<double>(steps_);
  }
  TaskControl* control_;
  int64_t steps_;
  std::atomic<int64_t> done_{0};
};

}  // namespace

// Some sequences, from the embedding to the last block's output and back.
class TorchModel::Backward {
 public:
  Backward(TorchModel* model, const GuidedOptions& options, TaskControl* control,
           Progress* progress, GuidedStatistics* out)
      : m_(*model), options_(options), control_(control), progress_(*progress), out_(*out) {}

  // tokens: [count, length], the sequences from `first` on.
  absl::Status Run(std::vector<int32_t> tokens, int64_t first, int64_t count, int64_t length) {
    tokens_ = std::move(tokens);
    first_ = first;
    const Clock::time_point start = Clock::now();
    SA_RETURN_IF_ERROR(Forward(count, length));
    const Clock::time_point middle = Clock::now();
    out_.forward_seconds += std::chrono::duration<double>(middle - start).count();
    SA_RETURN_IF_ERROR(FromLoss());
    for (int64_t block = m_.s_.blocks - 1; block >= 0; --block) {
      SA_RETURN_IF_ERROR(ThroughBlock(block));
      inputs_.pop_back();
    }
    out_.backward_seconds += SecondsSince(middle);
    return absl::OkStatus();
  }

 private:
  absl::Status Forward(int64_t count, int64_t length) {
    SA_ASSIGN_OR_RETURN(gradient_, m_.Embed(tokens_, count, length));
    for (int64_t block = 0; block < m_.s_.blocks; ++block) {
      ShowBoundary(block);
      inputs_.push_back(gradient_);
      SA_RETURN_IF_ERROR(m_.RunBlock(block, &gradient_, nullptr, control_));
      progress_.Forward(count);
    }
    ShowBoundary(m_.s_.blocks);
    return absl::OkStatus();
  }

  void ShowBoundary(int64_t block) const {
    const std::vector<int64_t>& wanted = options_.boundary_blocks;
    if (std::find(wanted.begin(), wanted.end(), block) != wanted.end())
      options_.boundary(block, first_, gradient_);
  }

  // gradient_: from the last block's output to the gradient there, in place.
  absl::Status FromLoss() {
    SA_RETURN_IF_ERROR(CatchTorch([&] { return m_.LoadHead(); }));
    return ForSequences([&](int64_t sequence, const at::Tensor& states) -> absl::Status {
      const int64_t length = gradient_.length;
      std::vector<int64_t> labels(tokens_.begin() + sequence * length + 1,
                                  tokens_.begin() + (sequence + 1) * length);
      const at::Tensor label =
          at::from_blob(labels.data(), {length - 1}, at::kLong).to(states.device());
      Store(LossGradient(m_.s_, m_.head_, states, label, m_.ScoreChunk()), sequence);
      if (control_ != nullptr) ++control_->progress_count;
      return absl::OkStatus();
    });
  }

  // gradient_: from the gradient at the block's output to the one at its input, in place.
  absl::Status ThroughBlock(int64_t block) {
    const int64_t length = gradient_.length;
    SA_ASSIGN_OR_RETURN(const BlockWeights* const weights, m_.PrepareBlock(block, length));
    RopeTensors rope;
    SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
      const c10::InferenceMode normal(false);
      rope = MakeRopeTensors(m_.rope_, length, m_.device_);
      return absl::OkStatus();
    }));
    std::vector<std::vector<float>>& layers = out_.blocks[block].layers;
    return ForSequences([&](int64_t sequence, const at::Tensor& g) -> absl::Status {
      const at::Tensor h = Load(inputs_.back(), sequence);
      const GradientVisitor visit = [&](size_t layer, const at::Tensor& gradient) {
        const int64_t offset = (first_ + sequence) * length * options_.chunks;
        const at::Tensor s = MeanSquares(gradient, options_.chunks).cpu();
        std::memcpy(layers[layer].data() + offset, s.const_data_ptr<float>(),
                    s.numel() * sizeof(float));
      };
      Store(BlockBackward(m_.s_, *weights, rope, h, g, visit), sequence);
      progress_.Backward();
      return absl::OkStatus();
    });
  }

  // work(sequence, what gradient_ holds of it), with autograd.
  absl::Status ForSequences(const std::function<absl::Status(int64_t, const at::Tensor&)>& work) {
    return ParallelFor(gradient_.count, m_.threads_, [&](int64_t sequence) -> absl::Status {
      SA_RETURN_IF_ERROR(progress_.Check());
      const c10::InferenceMode normal(false);
      return work(sequence, Load(gradient_, sequence));
    });
  }

  at::Tensor Load(HiddenStates& h, int64_t sequence) const {
    float* data = h.data.data() + sequence * h.length * h.hidden;
    return at::from_blob(data, {h.length, h.hidden}, at::kFloat).to(m_.device_);
  }
  void Store(const at::Tensor& values, int64_t sequence) {
    const at::Tensor host = values.cpu();
    std::memcpy(gradient_.data.data() + sequence * gradient_.length * gradient_.hidden,
                host.const_data_ptr<float>(), host.numel() * sizeof(float));
  }

  TorchModel& m_;
  const GuidedOptions& options_;
  TaskControl* control_;
  Progress& progress_;
  GuidedStatistics& out_;
  std::vector<int32_t> tokens_;
  int64_t first_ = 0;
  HiddenStates gradient_;
  std::vector<HiddenStates> inputs_;  // of the blocks not yet gone back through
};

absl::StatusOr<GuidedStatistics> TorchModel::TokenWeights(const std::vector<int32_t>& tokens,
                                                          int64_t count, int64_t length,
                                                          const GuidedOptions& options,
                                                          TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckTokens(tokens, count, length));
  SA_RETURN_IF_ERROR(CheckChunks(s_, options.chunks));
  GuidedStatistics out;
  const size_t layers = BlockLayers(s_, 0).size();
  const size_t numbers = static_cast<size_t>(count * length * options.chunks);
  for (int64_t block = 0; block < s_.blocks; ++block) {
    out.blocks.push_back({std::vector<std::vector<float>>(layers, std::vector<float>(numbers))});
  }
  SA_RETURN_IF_ERROR(Guide(tokens, count, length, options, control, &out));
  return out;
}

absl::Status TorchModel::Guide(const std::vector<int32_t>& tokens, int64_t count, int64_t length,
                               const GuidedOptions& options, TaskControl* control,
                               GuidedStatistics* out) {
  Progress progress(control, 2 * count * s_.blocks);
  const uint64_t sequence_bytes =
      static_cast<uint64_t>(s_.blocks * length * s_.hidden) * sizeof(float);
  // More sequences than threads only save reading blocks again.
  const int64_t together =
      keeps_blocks() ? threads_
                     : std::max<int64_t>(
                           threads_, static_cast<int64_t>(options.boundary_bytes / sequence_bytes));
  for (int64_t first = 0; first < count; first += together) {
    const int64_t size = std::min(together, count - first);
    Backward pass(this, options, control, &progress, out);
    SA_RETURN_IF_ERROR(
        pass.Run({tokens.begin() + first * length, tokens.begin() + (first + size) * length}, first,
                 size, length));
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::reference
