// The full-precision executor of an ArchitectureSpec, on LibTorch (fp32; see Device). Calibration
// and evaluation run on it. No LibTorch type appears here.
//
// Results are the same bytes for any number of threads: sequences run in parallel, each with one
// ATen thread and the same shapes, and callers reduce in sequence order.
#ifndef SHIFTADD_WORKER_REFERENCE_REFERENCE_MODEL_H_
#define SHIFTADD_WORKER_REFERENCE_REFERENCE_MODEL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/model_source.h"

namespace shiftadd {

// States that a model has left on its device.
class DeviceStates {
 public:
  virtual ~DeviceStates() = default;
  virtual bool on_host() const = 0;  // they wait there, as the device had no room
};

// Hidden states of `count` sequences of `length` tokens: data is [count, length, hidden],
// row-major. From a model in half precision `data` is empty and `device` is set, until ToHost.
struct HiddenStates {
  int64_t count = 0, length = 0, hidden = 0;
  std::vector<float> data;
  std::shared_ptr<const DeviceStates> device;
};

// States on their way to the host, part by part, beside what the device does next.
class HostCopy {
 public:
  virtual ~HostCopy() = default;
  // Takes the states of sequences [first, first + some.count), from which nothing is needed
  // afterwards. Does not wait for the device. Several threads may call it, for different sequences.
  virtual absl::Status Add(int64_t first, const HiddenStates& some) = 0;
  // Waits until all that was added is there, on any thread: [count, length, hidden], valid while
  // this lives. Sequences that were not added are undefined.
  virtual absl::StatusOr<const float*> Wait() = 0;
};

// What long loops report to and look at. Thread-safe.
struct TaskControl {
  std::atomic<bool> cancelled{false};  // checked at least once a second
  std::atomic<uint64_t> progress_count{
      0};                             // moves with the work: heartbeats stop when it stands still
  std::atomic<double> progress{0.0};  // 0..1
  absl::Status Check() const {
    return cancelled ? absl::CancelledError("the task was cancelled") : absl::OkStatus();
  }
};

// Call once, before the first tensor: one ATen thread a caller, CUDA's library if it can be opened.
void InitTorch();

// Called with the input of a block's layers: x is [tokens, width] of sequence `sequence`, valid
// during the call. Called from several threads, for one sequence in the order kAttn, kAttnOut,
// kMlp, kMlpAct.
using InputVisitor = std::function<void(BlockInput input, int64_t sequence, const float* x,
                                        int64_t tokens, int64_t width)>;

// Where a model runs. kCpu: this project's own executor. kCuda: plain ATen operators on the current
// CUDA device, fp32 with TF32 off, one sequence at a time; what goes in and comes out is on the
// host, sampling runs on the CPU. Its results differ from kCpu's by rounding, but not from run to
// run on one kind of GPU. kCpuOperators: the code of kCuda on the CPU, for tests.
// kCudaMixed: kCuda with the products of linear layers and the head in bf16, summed in fp32.
// kCudaHalf: for calibration; kCudaMixed's arithmetic, and activations in bf16 as well, many
// sequences together (half_block.h), for the LLaMA form: neither scores nor samples. Other
// architectures are kCudaMixed there. kCpuMixed, kCpuHalf: their code on the CPU, for tests.
enum class Device { kCpu, kCuda, kCpuOperators, kCudaMixed, kCpuMixed, kCudaHalf, kCpuHalf };

// A running sum over tokens of s_t x_t x_t^T, x an input of layers, kept where the model runs: each
// product of some sequences in fp32, their sum in float64, in the order in which they come.
class InputSum {
 public:
  virtual ~InputSum() = default;
  // [k, k] row-major, upper triangle (0 below). The sum is spent.
  virtual absl::StatusOr<std::vector<double>> Take() = 0;
  // Whether every square is a finite number, and whether all are 0.
  virtual absl::StatusOr<bool> Finite() = 0;
  virtual absl::StatusOr<bool> Zero() = 0;
  virtual int64_t width() const = 0;
};
enum class TokenScale {
  kOne,
  kUnitRms,  // 1 / mean(x_t^2); 0 for a token of zeros, or one too small to be inverted
  kGiven
};
struct InputToSum {
  BlockInput input = BlockInput::kAttn;
  TokenScale scale = TokenScale::kOne;
  std::vector<float> weights;  // kGiven: s_t, [count, length] of the states that run
  InputSum* sum = nullptr;     // of this model
};

// Sums over the predicted tokens (length - 1) of one sequence, nats.
struct SequenceScores {
  double nll_full = 0;
  std::vector<double> nll;  // by variant
  std::vector<double> kl;   // by variant: KL(full || variant)
  // Of the first variant: the divergence of each predicted token, and how many have the same most
  // likely token.
  std::vector<float> token_kl;
  int64_t top1_agreements = 0;
};

// How TokenWeights works.
struct GuidedOptions {
  int64_t chunks = 1;  // C: equal consecutive runs of a layer's rows, n * c / C … n * (c + 1) / C
  // Memory for the inputs of all blocks. A model that keeps its blocks takes one sequence a thread
  // through forward and backward; one that has to read them again takes as many together as fit,
  // but at least one a thread. The result does not depend on it.
  uint64_t boundary_bytes = uint64_t{1} << 30;
  // Called with the input of each of `boundary_blocks` (`blocks`: the last block's output) of
  // sequences [first, first + h.count): for all blocks, rising, of some sequences, then of later
  // sequences. h may be on the model's device (HostCopy takes it either way).
  std::vector<int64_t> boundary_blocks;
  std::function<void(int64_t block, int64_t first, const HiddenStates& h)> boundary;
};

// s_tc of the layers of one block, in the order of BlockLayers: each [count, length, chunks].
struct BlockTokenWeights {
  std::vector<std::vector<float>> layers;
};
struct GuidedStatistics {
  std::vector<BlockTokenWeights> blocks;
  double forward_seconds = 0, backward_seconds = 0;
};

// One caller at a time, but for Logits, LogitsChunk and ScoreSequence, which several threads may
// call together.
// The first line of every LibTorch exception comes back as INTERNAL, or RESOURCE_EXHAUSTED where
// memory ran out.
class ReferenceModel {
 public:
  virtual ~ReferenceModel() = default;
  // `weights` must outlive the model. Blocks are read when first run; at most `resident_blocks` are
  // kept (0 = all), those used last. Results do not depend on it. INVALID_ARGUMENT: the spec cannot
  // be run; NOT_FOUND: names every tensor that `weights` lacks; FAILED_PRECONDITION: no CUDA
  // device.
  static absl::StatusOr<std::unique_ptr<ReferenceModel>> Create(const WeightProvider* weights,
                                                                int threads, int resident_blocks,
                                                                Device device = Device::kCpu);

  virtual const ArchitectureSpec& spec() const = 0;
  // What it was made from. Whoever works on the model's device reads weights from here: those that
  // the model has there need not be read again. For the thread that runs the model.
  virtual const WeightProvider& weights() const = 0;
  virtual bool keeps_blocks() const = 0;     // resident_blocks is 0
  virtual bool stays_on_device() const = 0;  // RunBlocks moves a sequence to a device and back once
  // How many of `threads` should call ScoreSequence together.
  virtual int ScoringThreads(int threads) const { return threads; }
  // Frees blocks, not the embedding and the head. They are read again when they are needed.
  virtual void DropBlocks() = 0;

  // tokens: [count, length]. INVALID_ARGUMENT names a token that is not in the vocabulary.
  virtual absl::StatusOr<HiddenStates> Embed(const std::vector<int32_t>& tokens, int64_t count,
                                             int64_t length) = 0;
  // Brings states that are on the model's device to the host.
  virtual absl::Status ToHost(HiddenStates*) { return absl::OkStatus(); }
  // Room on the host for states of `count` sequences of `length` tokens, in memory that the device
  // can write by itself if there is enough of that.
  virtual absl::StatusOr<std::unique_ptr<HostCopy>> NewHostCopy(int64_t count, int64_t length) = 0;
  // The states of a copy [count, length] that a model of this kind has made, as ToDevice leaves
  // them.
  virtual absl::StatusOr<HiddenStates> FromHostCopy(std::shared_ptr<HostCopy> copy, int64_t count,
                                                    int64_t length) = 0;
  // The way back, for models that keep states on a device; where they do not fit, they stay on the
  // host.
  virtual absl::Status ToDevice(HiddenStates*) { return absl::OkStatus(); }
  // Runs one block in place, causal attention inside each sequence. `visitor` and `control` may be
  // null. Moves control's progress_count, not its progress. After an error *h is undefined.
  virtual absl::Status RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                                TaskControl* control) = 0;
  // Blocks [begin, end), in place: what RunBlock one by one gives.
  virtual absl::Status RunBlocks(int64_t begin, int64_t end, HiddenStates* h,
                                 TaskControl* control) = 0;
  // Models on a device sum products of inputs there, which the host would be slow at: a new sum of
  // width k, to be given to RunBlockSumming. Null for kCpu, where visitors are as good.
  virtual std::unique_ptr<InputSum> NewInputSum(int64_t k) = 0;
  // RunBlock that adds the products of `sums`. UNIMPLEMENTED for kCpu.
  virtual absl::Status RunBlockSumming(int64_t block, HiddenStates* h,
                                       const std::vector<InputToSum>& sums,
                                       TaskControl* control) = 0;
  // The same computation only as far as `input`, on a copy of `h`: `visitor` is called for that
  // input alone, with the numbers that it would see in RunBlock.
  virtual absl::Status VisitInput(int64_t block, BlockInput input, const HiddenStates& h,
                                  const InputVisitor& visitor, TaskControl* control) = 0;
  // Final norm and head of one sequence of `h`: out is [length, vocab].
  virtual absl::Status Logits(const HiddenStates& h, int64_t sequence, std::vector<float>* out) = 0;
  // The same for tokens [chunk * kLogitsChunk, min(length, (chunk + 1) * kLogitsChunk)) only: the
  // same numbers.
  static constexpr int64_t kLogitsChunk = 128;
  virtual absl::Status LogitsChunk(const HiddenStates& h, int64_t sequence, int64_t chunk,
                                   std::vector<float>* out) = 0;

  // A model of the same vocabulary and what comes out of its last block, [count, length, hidden].
  struct Scored {
    ReferenceModel* model;
    const HiddenStates* hidden;
  };
  // Scores `variants`, models on the same device, against this model on one sequence: `h` is what
  // comes out of this model's last block, `tokens` [length] the sequence's own. In double; logits
  // exist for some tokens at a time. INVALID_ARGUMENT: logits that are not finite, naming the
  // token. `control` may be null; its progress_count moves.
  virtual absl::StatusOr<SequenceScores> ScoreSequence(const HiddenStates& h, int64_t sequence,
                                                       const int32_t* tokens,
                                                       const std::vector<Scored>& variants,
                                                       TaskControl* control) = 0;

  // Statistics of guided Hessians: s_tc = mean over rows n of chunk c of g_tn^2, g the gradient at
  // a layer's output y = W x_t (+ b) of the cross entropy of every next token of tokens [count,
  // length], summed. The forward pass is RunBlock's and keeps the input of every block; the
  // backward pass takes the blocks from the last to the first and runs each again from its input,
  // so that in memory there are the blocks' inputs, one block's weights (resident_blocks) and, a
  // thread, one block's activations for one sequence. fp32; sequences in parallel. Numbers that are
  // not finite are passed on. A sequence of one token has no gradient: zeros. INVALID_ARGUMENT: as
  // Embed, or chunks outside 1 … the rows of the smallest layer. Sets control's progress.
  virtual absl::StatusOr<GuidedStatistics> TokenWeights(const std::vector<int32_t>& tokens,
                                                        int64_t count, int64_t length,
                                                        const GuidedOptions& options,
                                                        TaskControl* control) = 0;

  // Samples sequences first … first + count - 1, `length` tokens each, at temperature 1, with a
  // key/value cache. Token 0 is BOS (without one: drawn evenly from the vocabulary); token t of
  // sequence s is drawn with a uniform number that is a function of (seed, s, t) only. End-of-text
  // tokens do not stop a sequence. Output [count, length]. A sequence is the same whichever call
  // makes it and however many are made together. On the CPU up to 16 are decoded side by side,
  // threads share the sequences, and weights, keys and values are rounded to half precision; on a
  // GPU 16 are decoded at a time, in bf16 but for the logits, or on the CPU if weights and caches
  // would take more than three quarters of its memory. Holds the whole model so whatever
  // resident_blocks says, until a block is run. Sets control's progress.
  // INVALID_ARGUMENT: logits that are not finite, naming sequence and token.
  virtual absl::StatusOr<std::vector<int32_t>> Sample(uint64_t seed, int64_t first, int64_t count,
                                                      int64_t length, TaskControl* control) = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_REFERENCE_REFERENCE_MODEL_H_
