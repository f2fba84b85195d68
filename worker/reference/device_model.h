// ReferenceModel in plain ATen operators, on CUDA or (for tests) on the CPU. ATen types: include
// from .cc files of worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_DEVICE_MODEL_H_
#define SHIFTADD_WORKER_REFERENCE_DEVICE_MODEL_H_

#include <memory>

#include "worker/reference/device_sampler.h"
#include "worker/reference/torch_block.h"
#include "worker/reference/torch_model.h"

namespace shiftadd::reference {

// Sequences go through one after the other, each by kernels on one stream: nothing depends on an
// order in time.
class DeviceModel : public TorchModel {
 public:
  // kCuda, kCudaMixed, or their code on the CPU.
  static absl::StatusOr<std::unique_ptr<DeviceModel>> Create(const WeightProvider* weights,
                                                             int threads, int resident_blocks,
                                                             Device device);

  bool stays_on_device() const override { return keeps_blocks(); }
  void DropBlocks() override;
  absl::Status RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                        TaskControl* control) override;
  // Runs the whole block: the rest of it costs less than a second way through.
  absl::Status VisitInput(int64_t block, BlockInput input, const HiddenStates& h,
                          const InputVisitor& visitor, TaskControl* control) override;
  absl::Status RunBlocks(int64_t begin, int64_t end, HiddenStates* h,
                         TaskControl* control) override;
  std::unique_ptr<InputSum> NewInputSum(int64_t k) override;
  absl::Status RunBlockSumming(int64_t block, HiddenStates* h, const std::vector<InputToSum>& sums,
                               TaskControl* control) override;
  absl::StatusOr<std::vector<int32_t>> Sample(uint64_t seed, int64_t first, int64_t count,
                                              int64_t length, TaskControl* control) override;

 protected:
  at::Tensor HeadLogits(const HiddenStates& h, int64_t sequence, int64_t begin,
                        int64_t tokens) const override;
  absl::Status ScoreTokens(const std::vector<Scored>& models, int64_t sequence, int64_t begin,
                           const std::vector<int32_t>& labels, TaskControl* control,
                           SequenceScores* out) override;
  absl::Status Guide(const std::vector<int32_t>& tokens, int64_t count, int64_t length,
                     const GuidedOptions& options, TaskControl* control,
                     GuidedStatistics* out) override;
  int64_t ScoreChunk() const override { return 512; }
  // Several threads on one device would only hold more of its memory.
  int ScoringThreads(int) const override { return 1; }

 private:
  DeviceModel(const WeightProvider* weights, int threads, int resident_blocks, at::Device device,
              at::ScalarType products);
  // visit(sequence, input, x) for the inputs of the block.
  using Visit = std::function<void(int64_t, BlockInput, const at::Tensor&)>;
  absl::Status Run(int64_t block, HiddenStates* h, int threads, const Visit& visit,
                   TaskControl* control);
  // All blocks' weights, and RoPE of `length`.
  absl::StatusOr<std::vector<const BlockWeights*>> PrepareBlocks(int64_t begin, int64_t end,
                                                                 int64_t length, RopeTensors* rope,
                                                                 TaskControl* control);
  absl::Status GuideSequence(int64_t sequence, const std::vector<const BlockWeights*>& weights,
                             const RopeTensors& rope, const std::vector<int32_t>& tokens,
                             const GuidedOptions& options, HiddenStates* h, TaskControl* control,
                             GuidedStatistics* out);
  at::Tensor Load(const float* rows, int64_t tokens) const;
  void Store(const at::Tensor& values, float* rows) const;

  // While sampling: a decoder on the device, or, of a model that does not fit there, on the CPU.
  absl::Status LoadSampler(int64_t length);
  void DropSampler();

  const int sampling_threads_;
  std::unique_ptr<DeviceSampler> device_sampler_;
  std::unique_ptr<TorchModel> cpu_sampler_;
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_DEVICE_MODEL_H_
