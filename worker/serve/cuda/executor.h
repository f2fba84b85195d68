// Runs an ArchitectureSpec on packed weights on a GPU: the implementation of PackedModel.
//
// A decode step (one token of each of up to 16 sequences, all logits wanted) is padded to 1, 2, 4,
// 8 or 16 rows and replayed as one CUDA graph; everything else is launched kernel by kernel.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_EXECUTOR_H_
#define SHIFTADD_WORKER_SERVE_CUDA_EXECUTOR_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "worker/serve/cuda/attention.h"
#include "worker/serve/cuda/cuda_model.h"
#include "worker/serve/cuda/device.h"
#include "worker/serve/cuda/linears.h"
#include "worker/serve/cuda/page_pool.h"
#include "worker/serve/cuda/sample.h"
#include "worker/serve/cuda/staging.h"

namespace shiftadd::cuda {

struct DeviceNorm {
  Buffer weight, bias;  // either may be empty

  NormView view() const { return {weight.as<float>(), bias.as<float>()}; }
  uint64_t bytes() const { return weight.size() + bias.size(); }
};

struct DeviceBlock {
  DeviceNorm attn_norm, mlp_norm, attn_post_norm, mlp_post_norm;
  Buffer q_norm, k_norm;
  LinearGroup qkv, o, gate_up, down;
};

struct DeviceWeights {
  std::vector<DeviceBlock> blocks;
  DeviceNorm final_norm, embed_norm;
  Buffer positions;
  LinearGroup embed_proj, head_proj;    // empty unless the embedding is narrower than hidden
  LinearGroup head;                     // its matrix is the embedding too where that is tied
  std::unique_ptr<DeviceLinear> embed;  // null if tied
  std::unique_ptr<ActivationPool> activations;

  uint64_t bytes() const;
};

// Rows of a step, at most.
int64_t StepRows(const CudaModelOptions& options);
AttentionShape ShapeOf(const ArchitectureSpec& spec);
// Bytes of the buffers that an executor allocates, activations apart.
uint64_t BufferBytes(const ArchitectureSpec& spec, const CudaModelOptions& options);
// Pages set aside for caches, and one for rows that pad a step.
int64_t CachePages(const ArchitectureSpec& spec, const CudaModelOptions& options);

class Executor : public PackedModel {
 public:
  static absl::StatusOr<std::unique_ptr<Executor>> Create(const ArchitectureSpec& spec,
                                                          DeviceWeights weights,
                                                          const CudaModelOptions& options,
                                                          std::string device);
  ~Executor() override;

  const ArchitectureSpec& spec() const override { return spec_; }
  uint64_t weight_bytes() const override { return weight_bytes_; }
  kernels::Isa isa() const override { return kernels::DetectIsa(); }
  int threads() const override { return 1; }
  std::string device() const override { return device_; }
  int64_t step_rows() const override { return StepRows(options_); }
  int64_t cache_pages() const override { return pool_->used() - (spare_page_ == nullptr ? 0 : 1); }
  int64_t cache_page_bytes() const override { return static_cast<int64_t>(pool_->page_bytes()); }
  std::unique_ptr<KvCache> NewCache(int64_t capacity) const override;
  absl::Status Forward(const std::vector<int32_t>& tokens, KvCache* cache, bool all_logits,
                       std::vector<float>* logits) override;
  absl::Status ForwardBatch(const std::vector<BatchRow>& rows,
                            std::vector<float>* logits) override {
    return Run(rows, logits, nullptr);
  }
  bool can_sample() const override { return true; }
  absl::Status ForwardSample(const std::vector<BatchRow>& rows, std::vector<float>* logits,
                             std::vector<int32_t>* tokens) override {
    return Run(rows, logits, tokens);
  }

 private:
  // Rows [begin, end) of a step belong to one sequence.
  struct Piece {
    DeviceCache* cache;
    int64_t begin, end;
  };
  // What is launched for a step; all that a graph depends on.
  struct Plan {
    int64_t rows = 0;
    const Staging* staging = nullptr;
    bool decode = false;                 // every row attends alone, its logits are computed …
    bool sample = false;                 // … and a token is drawn
    int64_t decode_rows = 0, tiles = 0;  // otherwise
  };

  Executor(const ArchitectureSpec& spec, DeviceWeights weights, const CudaModelOptions& options,
           std::string device, Stream stream);
  absl::Status Allocate();

  absl::Status Check(const std::vector<BatchRow>& rows) const;
  absl::Status Reserve(const std::vector<BatchRow>& rows);
  absl::Status GrowRope(int64_t positions);
  // `tokens` may be null: nothing is drawn.
  absl::Status Run(const std::vector<BatchRow>& rows, std::vector<float>* logits,
                   std::vector<int32_t>* tokens);
  absl::Status Decode(const std::vector<BatchRow>& rows, std::vector<float>* logits,
                      std::vector<int32_t>* tokens);
  absl::Status PromptStep(const BatchRow* rows, int64_t count, std::vector<float>* logits,
                          std::vector<int32_t>* tokens);
  // The rows whose logits are wanted, in slices.
  absl::Status PromptHead(const std::vector<const BatchRow*>& wanted, std::vector<float>* logits,
                          std::vector<int32_t>* tokens);
  absl::Status Sample(const Staging& staging, int64_t first, int64_t rows);
  // What the rows of a head launch, of which the first has logits at logits_, asked for. Waits.
  absl::Status Collect(const BatchRow* const* rows, int64_t count, std::vector<float>* logits,
                       std::vector<int32_t>* tokens);
  // Page tables of `pieces` into the staging area; its number of pages.
  absl::StatusOr<int64_t> StagePages(const std::vector<Piece>& pieces, int64_t spare,
                                     Staging* staging);

  absl::Status LaunchDecode(const Plan& plan);
  absl::StatusOr<cudaGraphExec_t> Capture(const Plan& plan);
  void DropGraphs();

  // Launches of a step (executor_blocks.cc).
  absl::Status Blocks(const Plan& plan);
  absl::Status FusedBlocks(const Plan& plan);
  absl::Status GeneralBlocks(const Plan& plan);
  absl::Status Embed(const Plan& plan);
  absl::Status Attention(int64_t block, const Plan& plan);
  absl::Status AddBias(const LinearGroup& group, int64_t rows, float* y) const;
  // The input of the sublayer behind `next`, in scratch_ or hidden_[0]: adds what the one before
  // left in delta_ to the residual stream. `norm`, `post`: that one's; null at the first.
  absl::StatusOr<const float*> Join(const DeviceNorm* norm, const DeviceNorm* post,
                                    const DeviceNorm& next, int64_t rows);
  absl::Status Activate(const LinearGroup& gate_up, int64_t rows);
  // Logits at logits_ from what the head reads.
  absl::Status Head(GroupInput in, int64_t rows);

  const ArchitectureSpec spec_;
  const CudaModelOptions options_;
  const std::string device_;
  const AttentionShape shape_;
  DeviceWeights weights_;
  const uint64_t weight_bytes_;
  Stream stream_;
  std::shared_ptr<PagePool> pool_;
  std::unique_ptr<kernels::CudaWorkspace> workspace_;  // null if batch_invariant
  RunContext context_;

  // Whether norms and the activation are those that the preparation of activations can do: RMS
  // norms before sublayers and SiLU with a gate.
  const bool fused_;
  Buffer cos_sin_[2];      // of all blocks, or of global and of local ones
  int64_t positions_ = 0;  // of cos_sin_
  Buffer slopes_;          // ALiBi: [heads]

  Staging decode_staging_, prompt_staging_;
  Buffer hidden_[2];
  int current_ = 0;  // which hidden_ holds the residual stream
  Buffer delta_, qkv_, attended_, gate_up_, compact_, logits_, scratch_, narrow_;
  const float* normed_ = nullptr;  // all rows of a prompt as the head reads them, unless fused_
  Buffer split_sums_, split_tops_, split_arrived_;
  DecodeScratch splits_;
  PagedCache::Page spare_page_;  // what padding rows write to
  Buffer sample_parts_, tokens_;
  PinnedBuffer host_logits_, host_tokens_;
  // By rows and whether tokens are drawn; null: launched once, not captured yet.
  std::map<std::pair<int64_t, bool>, cudaGraphExec_t> graphs_;
};

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_EXECUTOR_H_
