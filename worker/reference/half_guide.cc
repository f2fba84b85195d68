// HalfModel::Guide: forward, keeping what the backward pass needs, and back.
#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/half_model.h"
#include "worker/reference/host_memory.h"
#include "worker/reference/torch_seam.h"
#include "worker/reference/warn.h"

namespace shiftadd::reference {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kHeadTokens = 2048;  // whose logits exist together

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What HalfActivations hold of a token.
int64_t KeptBytes(const ArchitectureSpec& s) {
  return 8 * s.hidden + 2 * (3 * s.q_rows() + 2 * s.kv_rows() + 2 * s.intermediate);
}

}  // namespace

// Some sequences, cut into microbatches: every block over all of them before the next one.
class HalfModel::Pass {
 public:
  // Block and first sequence of what was shown: each once, though a pass may be made again.
  using Boundaries = std::set<std::pair<int64_t, int64_t>>;
  // `keep`: what blocks compute, until the way back. `away`: states wait on the host.
  Pass(HalfModel* model, const GuidedOptions& options, bool keep, bool away, TaskControl* control,
       Boundaries* shown, GuidedStatistics* out)
      : m_(*model),
        options_(options),
        keep_(keep),
        away_(away),
        control_(control),
        shown_(*shown),
        out_(*out) {}

  absl::Status Run(const int32_t* tokens, int64_t first, int64_t count, int64_t length) {
    const Clock::time_point start = Clock::now();
    length_ = length;
    pinned_ = MayPin((m_.s_.blocks + 1) * count * length * m_.s_.hidden * int64_t{sizeof(float)});
    rope_ = m_.Rope(length);
    for (int64_t i = 0; i < count; i += m_.Together(length)) {
      Part& part = parts_.emplace_back();
      part.first = first + i;
      part.batch = {std::min(m_.Together(length), count - i), length};
      part.tokens = tokens + i * length;
      part.state = Away(m_.EmbedMicrobatch(part.tokens, part.batch.count * length));
    }
    for (int64_t block = 0; block < m_.s_.blocks; ++block) SA_RETURN_IF_ERROR(Forward(block));
    for (const Part& part : parts_) ShowBoundary(m_.s_.blocks, part);
    Settle(m_.device_);
    const double forward = SecondsSince(start);
    for (Part& part : parts_) FromLoss(&part);
    for (int64_t block = m_.s_.blocks - 1; block >= 0; --block) {
      SA_RETURN_IF_ERROR(Backward(block));
    }
    for (const Part& part : parts_) Collect(part);
    out_.forward_seconds += forward;
    out_.backward_seconds += SecondsSince(start) - forward;
    return absl::OkStatus();
  }

 private:
  struct Part {
    int64_t first = 0;  // sequence
    Microbatch batch;
    const int32_t* tokens = nullptr;
    at::Tensor state;                   // the residual stream, then its gradient
    std::vector<at::Tensor> inputs;     // of the blocks not yet gone back through
    std::vector<HalfActivations> kept;  // likewise, if they are kept
    std::vector<at::Tensor> squares;    // from the last block: [layers, tokens, chunks]
  };

  at::Tensor Away(const at::Tensor& x) const {
    return away_ ? MoveToHost(x, m_.device_, pinned_) : x;
  }
  at::Tensor Back(const at::Tensor& x) const { return MoveToDevice(x, m_.device_); }

  absl::Status Moved() {
    if (control_ != nullptr) ++control_->progress_count;
    return Check(control_);
  }

  absl::Status Forward(int64_t block) {
    SA_ASSIGN_OR_RETURN(const HalfBlock* const weights, m_.Block(block));
    for (Part& part : parts_) {
      ShowBoundary(block, part);
      HalfActivations* const keep = keep_ ? &part.kept.emplace_back() : nullptr;
      const at::Tensor out =
          HalfForward(m_.s_, *weights, rope_, part.batch, Back(part.state), nullptr, keep);
      if (!keep_) part.inputs.push_back(part.state);
      part.state = Away(out);
      SA_RETURN_IF_ERROR(Moved());
    }
    return absl::OkStatus();
  }

  void FromLoss(Part* part) const {
    const int64_t tokens = part->batch.count * length_;
    std::vector<int64_t> labels(part->tokens + 1, part->tokens + tokens);
    labels.push_back(0);  // of the last token, which predicts nothing
    const at::Tensor label = at::from_blob(labels.data(), {tokens}, at::kLong).to(m_.device_);
    part->state = Away(HalfLossGradient(m_.s_, m_.half_norm_, m_.half_head_, part->batch,
                                        Back(part->state), label, kHeadTokens));
  }

  absl::Status Backward(int64_t block) {
    SA_ASSIGN_OR_RETURN(const HalfBlock* const weights, m_.Block(block));
    for (Part& part : parts_) {
      HalfActivations kept;
      if (keep_) {
        kept = std::move(part.kept.back());
        part.kept.pop_back();
      } else {
        HalfForward(m_.s_, *weights, rope_, part.batch, Back(part.inputs.back()), nullptr, &kept);
        part.inputs.pop_back();
      }
      std::vector<at::Tensor> squares(out_.blocks[block].layers.size());
      part.state = Away(HalfBackward(m_.s_, *weights, rope_, part.batch, kept, Back(part.state),
                                     [&](size_t layer, const at::Tensor& gradient) {
                                       squares[layer] = HalfMeanSquares(gradient, options_.chunks);
                                     }));
      part.squares.push_back(at::stack(squares));
      SA_RETURN_IF_ERROR(Moved());
    }
    return absl::OkStatus();
  }

  void Collect(const Part& part) const {
    const at::Tensor host = at::stack(part.squares).cpu().contiguous();
    const float* from = host.const_data_ptr<float>();
    const int64_t numbers = part.batch.count * length_ * options_.chunks;
    for (int64_t block = m_.s_.blocks - 1; block >= 0; --block) {
      for (std::vector<float>& layer : out_.blocks[block].layers) {
        std::copy_n(from, numbers, layer.begin() + part.first * length_ * options_.chunks);
        from += numbers;
      }
    }
  }

  void ShowBoundary(int64_t block, const Part& part) const {
    const std::vector<int64_t>& wanted = options_.boundary_blocks;
    if (std::find(wanted.begin(), wanted.end(), block) == wanted.end()) return;
    if (shown_.count({block, part.first}) > 0) return;
    if (away_) Settle(m_.device_);  // on its way to the host
    HiddenStates h{part.batch.count, length_, m_.s_.hidden, {}, nullptr};
    h.device = m_.StatesFrom(part.state);
    options_.boundary(block, part.first, h);
    shown_.insert({block, part.first});
  }

  HalfModel& m_;
  const GuidedOptions& options_;
  const bool keep_, away_;
  TaskControl* const control_;
  Boundaries& shown_;
  GuidedStatistics& out_;
  int64_t length_ = 0;
  bool pinned_ = false;  // what waits on the host
  RopeTensors rope_;
  std::vector<Part> parts_;
};

absl::Status HalfModel::Guide(const std::vector<int32_t>& tokens, int64_t count, int64_t length,
                              const GuidedOptions& options, TaskControl* control,
                              GuidedStatistics* out) {
  SA_RETURN_IF_ERROR(LoadEnds());
  const int64_t together = keeps_blocks() ? Together(length) : count;
  return CatchTorch([&]() -> absl::Status {
    const c10::InferenceMode normal(false);
    // Blocks run once instead of twice where there is room for it: the same numbers.
    bool keep = false;
    if (keeps_blocks()) {
      for (int64_t block = 0; block < s_.blocks; ++block) SA_RETURN_IF_ERROR(Block(block).status());
      const int64_t bytes =
          s_.blocks * std::min(together, count) * length * KeptBytes(s_) + (int64_t{8} << 30);
      if (device_.is_cuda()) {
        c10::DeviceAllocator* const allocator = c10::getDeviceAllocator(device_.type());
        allocator->emptyCache();
        keep = bytes < static_cast<int64_t>(allocator->getMemoryInfo(0).first);
      } else {
        keep = true;
      }
    }
    // Where blocks are read again and again, many microbatches wait for each: on the host.
    bool away = !keeps_blocks();
    Pass::Boundaries shown;
    for (int64_t first = 0; first < count; first += together) {
      const auto run = [&] {
        return CatchTorch([&] {
          const c10::InferenceMode no_inference(false);
          Pass pass(this, options, keep, away, control, &shown, out);
          return pass.Run(tokens.data() + first * length, first, std::min(together, count - first),
                          length);
        });
      };
      absl::Status status = run();
      if (absl::IsResourceExhausted(status) && (keep || !away)) {
        Warn(absl::StrCat(status.message(), ": from here on states wait on the host"));
        keep = false;
        away = true;
        status = run();
      }
      SA_RETURN_IF_ERROR(status);
      if (control != nullptr) {
        control->progress =
            static_cast<double>(std::min(first + together, count)) / static_cast<double>(count);
      }
    }
    return absl::OkStatus();
  });
}

}  // namespace shiftadd::reference
