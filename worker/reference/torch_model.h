// ReferenceModel on LibTorch. ATen types: include from .cc files of worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_TORCH_MODEL_H_
#define SHIFTADD_WORKER_REFERENCE_TORCH_MODEL_H_

#include <memory>
#include <mutex>
#include <vector>

#include "worker/reference/block_weights.h"
#include "worker/reference/decoder.h"
#include "worker/reference/reference_model.h"
#include "worker/reference/transformer_ops.h"

namespace shiftadd::reference {

// What `control`, which may be null, says.
inline absl::Status Check(const TaskControl* control) {
  return control == nullptr ? absl::OkStatus() : control->Check();
}

class TorchModel : public ReferenceModel {
 public:
  TorchModel(const WeightProvider* weights, int threads, int resident_blocks);

  const ArchitectureSpec& spec() const override { return s_; }
  void DropBlocks() override {
    blocks_.Clear();
    decoder_.reset();
  }
  absl::StatusOr<HiddenStates> Embed(const std::vector<int32_t>& tokens, int64_t count,
                                     int64_t length) override;
  absl::Status RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                        TaskControl* control) override;
  absl::Status Logits(const HiddenStates& h, int64_t sequence, std::vector<float>* out) override;
  absl::Status LogitsChunk(const HiddenStates& h, int64_t sequence, int64_t chunk,
                           std::vector<float>* out) override;
  absl::StatusOr<GuidedStatistics> TokenWeights(const std::vector<int32_t>& tokens, int64_t count,
                                                int64_t length, const GuidedOptions& options,
                                                TaskControl* control) override;
  absl::StatusOr<std::vector<int32_t>> Sample(uint64_t seed, int64_t first, int64_t count,
                                              int64_t length, TaskControl* control) override;

 private:
  class Backward;  // token_weights.cc

  absl::StatusOr<at::Tensor> EmbedMatrix();
  absl::Status LoadHead();
  absl::Status LoadDecoder(TaskControl* control);
  absl::Status CheckTokens(const std::vector<int32_t>& tokens, int64_t count, int64_t length) const;
  absl::Status CheckStates(const HiddenStates& h) const;
  absl::Status SampleMicrobatch(uint64_t seed, int64_t begin, int64_t length, TaskControl* control,
                                double share, std::vector<int32_t>* out);
  void PrepareRope(int64_t length) {
    if (rope_.length() < length) rope_ = RopeTable(s_, length);
  }

  const WeightProvider& weights_;
  const ArchitectureSpec s_;
  const int threads_;  // sequences at a time
  BlockCache blocks_;
  RopeTable rope_;
  std::mutex ends_mutex_;  // guards loading of embed_, final_norm_ and head_
  at::Tensor embed_, final_norm_;
  Linear head_;
  std::unique_ptr<DecoderWeights> decoder_;  // while sampling; blocks_ is empty then
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_TORCH_MODEL_H_
