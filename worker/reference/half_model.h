// ReferenceModel in bf16 (half_block.h), for calibration on a GPU. ATen types: include from .cc
// files of worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_HALF_MODEL_H_
#define SHIFTADD_WORKER_REFERENCE_HALF_MODEL_H_

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker/reference/device_tensors.h"
#include "worker/reference/half_block.h"
#include "worker/reference/staged_weights.h"
#include "worker/reference/torch_model.h"

namespace shiftadd::reference {

// Sequences go through in microbatches whose size depends on their length alone. States stay on the
// device between blocks; where they do not fit, or a block lacks room to compute beside them, they
// wait on the host, in pinned memory if there is enough, which changes no number.
// Scores and samples are not this model's: they are asked of one in full precision.
class HalfModel : public TorchModel {
 public:
  static absl::StatusOr<std::unique_ptr<HalfModel>> Create(const WeightProvider* weights,
                                                           int threads, int resident_blocks,
                                                           at::Device device);

  ~HalfModel() override;

  // Those that are in bf16 in the source, of the blocks that are on the device, are taken from
  // there.
  const WeightProvider& weights() const override { return resident_; }

  bool stays_on_device() const override { return true; }
  void DropBlocks() override { half_blocks_.clear(); }
  absl::StatusOr<HiddenStates> Embed(const std::vector<int32_t>& tokens, int64_t count,
                                     int64_t length) override;
  absl::Status ToHost(HiddenStates* h) override;
  absl::Status ToDevice(HiddenStates* h) override;
  absl::StatusOr<std::unique_ptr<HostCopy>> NewHostCopy(int64_t count, int64_t length) override;
  absl::StatusOr<HiddenStates> FromHostCopy(std::shared_ptr<HostCopy> copy, int64_t count,
                                            int64_t length) override;
  absl::Status RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                        TaskControl* control) override;
  absl::Status RunBlocks(int64_t begin, int64_t end, HiddenStates* h,
                         TaskControl* control) override;
  absl::Status VisitInput(int64_t block, BlockInput input, const HiddenStates& h,
                          const InputVisitor& visitor, TaskControl* control) override;
  std::unique_ptr<InputSum> NewInputSum(int64_t k) override;
  absl::Status RunBlockSumming(int64_t block, HiddenStates* h, const std::vector<InputToSum>& sums,
                               TaskControl* control) override;

 protected:
  absl::Status Guide(const std::vector<int32_t>& tokens, int64_t count, int64_t length,
                     const GuidedOptions& options, TaskControl* control,
                     GuidedStatistics* out) override;

 private:
  class Pass;  // of Guide
  class ResidentWeights : public WeightProvider, public ResidentTensors {
   public:
    explicit ResidentWeights(const HalfModel& model) : model_(model) {}
    const ArchitectureSpec& spec() const override { return model_.s_; }
    bool Has(const std::string& name) const override { return model_.weights_.Has(name); }
    absl::StatusOr<std::vector<float>> Read(const std::string& name) const override {
      return model_.weights_.Read(name);
    }
    std::optional<RawTensor> Raw(const std::string& name) const override {
      return model_.weights_.Raw(name);
    }
    at::Tensor Find(const std::string& name) const override;

   private:
    const HalfModel& model_;
  };

  HalfModel(const WeightProvider* weights, int threads, int resident_blocks, at::Device device);
  // visit(first sequence, input, x [tokens, width], done): `*done` counts the parts of the visit
  // that are over. One that ran out of memory is made again, with what it has counted.
  using Visit = std::function<void(int64_t, BlockInput, const at::Tensor&, int64_t* done)>;
  // One microbatch, as far as it was shown before memory ran out.
  struct Shown {
    int64_t visits = 0, parts = 0;  // of the next visit
  };
  absl::Status Run(int64_t block, HiddenStates* h, const Visit& visit, TaskControl* control);
  absl::Status RunMicrobatch(const HalfBlock& weights, const RopeTensors& rope, int64_t first,
                             const Visit& visit, HiddenStates* h, const at::Tensor& out,
                             Shown* shown);
  // Brings the states and what has come out of a block to the host, where they wait from now on.
  absl::Status Spill(HiddenStates* h, at::Tensor* out) const;
  // The same on the device, or `host` itself where there is no room.
  absl::StatusOr<at::Tensor> OnDevice(const at::Tensor& host) const;
  std::shared_ptr<const DeviceStates> StatesFrom(const at::Tensor& x) const;
  // Room for what comes out of a block: on the device if it has it.
  absl::StatusOr<at::Tensor> RoomFor(const HiddenStates& h) const;
  // Valid until the next call, or longer if all are kept.
  absl::StatusOr<const HalfBlock*> Block(int64_t block);
  absl::Status LoadEnds();
  // The embedding of some sequences, [tokens, hidden] fp32 on the device.
  at::Tensor EmbedMicrobatch(const int32_t* tokens, int64_t tokens_count) const;
  RopeTensors Rope(int64_t length);
  int64_t Together(int64_t length) const;  // sequences of a microbatch

  const size_t capacity_;  // 0: all
  BlockStage stage_;
  const ResidentWeights resident_;
  std::list<std::pair<int64_t, std::shared_ptr<const HalfBlock>>> half_blocks_;
  at::Tensor half_embed_, half_head_, half_norm_;
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_HALF_MODEL_H_
