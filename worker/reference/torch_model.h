// ReferenceModel on LibTorch. ATen types: include from .cc files of worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_TORCH_MODEL_H_
#define SHIFTADD_WORKER_REFERENCE_TORCH_MODEL_H_

#include <c10/core/Device.h>

#include <memory>
#include <mutex>
#include <vector>

#include "worker/reference/block_weights.h"
#include "worker/reference/decoder.h"
#include "worker/reference/reference_model.h"
#include "worker/reference/torch_block.h"
#include "worker/reference/transformer_ops.h"

namespace shiftadd::reference {

// What `control`, which may be null, says.
inline absl::Status Check(const TaskControl* control) {
  return control == nullptr ? absl::OkStatus() : control->Check();
}

class TorchModel : public ReferenceModel {
 public:
  // `products`: kFloat, or kBFloat16 for those of linear layers and the head (Linear).
  TorchModel(const WeightProvider* weights, int threads, int resident_blocks,
             at::Device device = at::kCPU, at::ScalarType products = at::kFloat);

  const ArchitectureSpec& spec() const override { return s_; }
  const WeightProvider& weights() const override { return weights_; }
  bool keeps_blocks() const override { return blocks_.keeps_all(); }
  bool stays_on_device() const override { return false; }
  void DropBlocks() override {
    blocks_.Clear();
    decoder_.reset();
  }
  absl::StatusOr<HiddenStates> Embed(const std::vector<int32_t>& tokens, int64_t count,
                                     int64_t length) override;
  absl::StatusOr<std::unique_ptr<HostCopy>> NewHostCopy(int64_t count, int64_t length) override;
  absl::StatusOr<HiddenStates> FromHostCopy(std::shared_ptr<HostCopy> copy, int64_t count,
                                            int64_t length) override;
  absl::Status RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                        TaskControl* control) override;
  absl::Status RunBlocks(int64_t begin, int64_t end, HiddenStates* h,
                         TaskControl* control) override;
  std::unique_ptr<InputSum> NewInputSum(int64_t) override { return nullptr; }
  absl::Status RunBlockSumming(int64_t, HiddenStates*, const std::vector<InputToSum>&,
                               TaskControl*) override {
    return absl::UnimplementedError("the CPU executor shows inputs to visitors");
  }
  absl::Status VisitInput(int64_t block, BlockInput input, const HiddenStates& h,
                          const InputVisitor& visitor, TaskControl* control) override;
  absl::Status Logits(const HiddenStates& h, int64_t sequence, std::vector<float>* out) override;
  absl::Status LogitsChunk(const HiddenStates& h, int64_t sequence, int64_t chunk,
                           std::vector<float>* out) override;
  absl::StatusOr<SequenceScores> ScoreSequence(const HiddenStates& h, int64_t sequence,
                                               const int32_t* tokens,
                                               const std::vector<Scored>& variants,
                                               TaskControl* control) override;
  absl::StatusOr<GuidedStatistics> TokenWeights(const std::vector<int32_t>& tokens, int64_t count,
                                                int64_t length, const GuidedOptions& options,
                                                TaskControl* control) override;
  absl::StatusOr<std::vector<int32_t>> Sample(uint64_t seed, int64_t first, int64_t count,
                                              int64_t length, TaskControl* control) override;

 protected:
  absl::Status LoadHead();
  absl::Status CheckSampling(int64_t first, int64_t count, int64_t length) const;
  absl::Status CheckRun(int64_t begin, int64_t end, const HiddenStates& h) const;
  // Logits of some tokens of a sequence, [tokens, vocab], where the head is (LoadHead first).
  virtual at::Tensor HeadLogits(const HiddenStates& h, int64_t sequence, int64_t begin,
                                int64_t tokens) const;
  // Adds the scores of tokens [begin, begin + count) of a sequence: `models` are this one and the
  // variants, labels [count] what the tokens predict.
  virtual absl::Status ScoreTokens(const std::vector<Scored>& models, int64_t sequence,
                                   int64_t begin, const std::vector<int32_t>& labels,
                                   TaskControl* control, SequenceScores* out);
  // TokenWeights of checked tokens, into zeros.
  virtual absl::Status Guide(const std::vector<int32_t>& tokens, int64_t count, int64_t length,
                             const GuidedOptions& options, TaskControl* control,
                             GuidedStatistics* out);
  virtual int64_t ScoreChunk() const { return kLogitsChunk; }  // tokens whose logits exist together
  // A block's weights and RoPE for sequences of `length`. Valid until the next call, or longer if
  // all blocks are kept.
  absl::StatusOr<const BlockWeights*> PrepareBlock(int64_t block, int64_t length);

 private:
  class Backward;  // token_weights.cc

  absl::StatusOr<at::Tensor> EmbedMatrix();  // on the CPU
  absl::Status LoadEmbedding();
  void EmbedSequence(const int32_t* tokens, int64_t length, float* h) const;
  absl::Status LoadDecoder(TaskControl* control);
  absl::Status CheckStates(const HiddenStates& h) const;
  // Sequences first … first + count - 1, decoded side by side; out [count, length].
  absl::Status SampleTogether(uint64_t seed, int64_t first, int64_t count, int64_t length,
                              TaskControl* control, double share, int32_t* out);

 protected:
  absl::Status CheckTokens(const std::vector<int32_t>& tokens, int64_t count, int64_t length) const;
  void PrepareRope(int64_t length) {
    if (rope_.length() < length) rope_ = RopeTable(s_, length);
  }

  const WeightProvider& weights_;
  const ArchitectureSpec s_;
  const int threads_;  // sequences at a time
  const at::Device device_;
  const at::ScalarType products_;
  BlockCache blocks_;
  RopeTable rope_;
  std::mutex ends_mutex_;  // guards loading of what follows
  at::Tensor embed_, positions_;
  NormWeights embed_norm_;
  Linear embed_proj_;
  HeadWeights head_;
  std::unique_ptr<DecoderWeights> decoder_;  // while sampling; blocks_ is empty then
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_TORCH_MODEL_H_
