// Runs an ArchitectureSpec on packed weights: the implementation of PackedModel.
#ifndef SHIFTADD_WORKER_SERVE_PACKED_EXECUTOR_H_
#define SHIFTADD_WORKER_SERVE_PACKED_EXECUTOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/serve/kv_cache.h"
#include "worker/serve/linear_group.h"
#include "worker/serve/packed_model.h"

namespace shiftadd {

// A norm's weights; no bias: an RMS norm.
struct ExecutorNorm {
  std::vector<float> weight, bias;
};

// The weights of a block, in the kernels' form.
struct ExecutorBlock {
  ExecutorNorm attn_norm, mlp_norm;
  ExecutorNorm attn_post_norm, mlp_post_norm;  // NormPlace::kAround
  std::vector<float> q_norm, k_norm;           // [head_dim], or empty
  LinearGroup qkv, o, gate_up, down;           // gate only if the MLP is gated
};

struct ExecutorWeights {
  std::vector<ExecutorBlock> blocks;
  ExecutorNorm final_norm, embed_norm;  // empty: none
  std::vector<float> positions;         // [context + position_offset, hidden], or empty
  LinearGroup embed_proj, head_proj;    // no rows: none
  // The head; when the embedding is tied, it is the embedding too.
  LinearGroup head;
  std::unique_ptr<Linear> embed;  // null if tied
};

class PackedExecutor : public PackedModel {
 public:
  PackedExecutor(const ArchitectureSpec& spec, ExecutorWeights weights,
                 const PackedModelOptions& options);

  const ArchitectureSpec& spec() const override { return spec_; }
  uint64_t weight_bytes() const override { return weight_bytes_; }
  kernels::Isa isa() const override { return isa_; }
  int threads() const override { return pool_.threads(); }
  int64_t cache_pages() const override { return *pages_; }
  int64_t cache_page_bytes() const override { return PagedKvCache::PageBytes(spec_, half_cache_); }
  std::unique_ptr<KvCache> NewCache(int64_t capacity) const override;
  absl::Status Forward(const std::vector<int32_t>& tokens, KvCache* cache, bool all_logits,
                       std::vector<float>* logits) override;
  absl::Status ForwardBatch(const std::vector<BatchRow>& rows, std::vector<float>* logits) override;
  void ForEach(int64_t items, absl::FunctionRef<void(int64_t)> f) override;

  // Only the matrix products of a step of `rows` (1 to 128) tokens that all want logits, on
  // whatever the buffers hold: what a benchmark compares a step with.
  void RunProducts(int64_t rows);

 private:
  // Rows [begin, end) of the step belong to one sequence, at consecutive positions.
  struct Run {
    PagedKvCache* cache;
    int64_t begin, end;
  };
  // Query rows [first, first + count) of a run and a key/value head; numbered token by token, head
  // by head.
  struct Tile {
    int run;
    int64_t kv_head, first;
    int count;
  };
  // What the loops of a step do. Of a linear group: its input's making, then its product.
  enum class Op { kPrepare, kMultiply, kRotate, kAttend };
  struct Work {
    Op op;
    int64_t block = 0;
    const LinearGroup* group = nullptr;
    const float* x = nullptr;
    float* y = nullptr;
    int64_t rows = 0;
  };

  // Also fills runs_.
  absl::Status Check(const std::vector<BatchRow>& rows);
  // In the caches that Check found, for all rows.
  absl::Status MakeRoom();
  // At most kStepRows rows, checked; logits go to `logits`, which moves on.
  void Step(const BatchRow* rows, int64_t count, float** logits);
  void PlanStep(const BatchRow* rows, int64_t count);
  void GrowBuffers(int64_t rows);
  void PlanLoops(float* logits);
  void PlanLinear(int64_t block, const LinearGroup& group, const float* x, float* y, int64_t rows);
  void RunLoop(const Work& work, int64_t begin, int64_t end, int thread);
  // Row i of the input of a group.
  void Produce(const Work& work, int64_t i);
  void ProduceForHead(int64_t i);
  void Gather(int64_t i, float* out) const;
  void Embed(int64_t i);
  void Norm(const ExecutorNorm& norm, const float* x, float* out) const;
  // Adds delta_ to hidden_ in row i, with the norms behind attention or MLP.
  void Join(const ExecutorNorm& norm, const ExecutorNorm& post, int64_t i);
  // What attention or MLP reads: hidden_ -> normed_ in row i.
  void Input(const ExecutorNorm& norm, int64_t i);
  void Activate(const float* gate_up, float* out) const;
  // Norms and rotates q and k of some heads of one token and puts k and v into its cache: query
  // heads [first, first + count), and those of key/value head `kv_head`.
  void RotateAndStore(int64_t b, int64_t row, int64_t first, int64_t count, int64_t kv_head,
                      int thread);
  void AttendTile(int64_t b, const Tile& tile, int thread);
  // Asks for what a tile will read.
  void PrefetchTile(int64_t b, const Tile& tile) const;
  void GrowRope(int64_t positions);

  const ArchitectureSpec spec_;
  const ExecutorWeights weights_;
  const kernels::Isa isa_;
  const bool half_cache_;
  const VectorOps& ops_;
  ThreadPool pool_;
  const PageCounter pages_ = std::make_shared<std::atomic<int64_t>>(0);
  uint64_t weight_bytes_ = 0;

  struct Angles {
    std::vector<double> inverse_frequencies;  // [head_dim / 2]; empty: no RoPE
    std::vector<float> cos, sin;              // [positions, head_dim / 2]
  };
  Angles angles_[2];           // of global and of local blocks
  std::vector<float> slopes_;  // [heads] or empty: ALiBi's

  // The step that runs. Buffers only grow; [rows, width] each.
  std::vector<Run> runs_;
  std::vector<Tile> tiles_;
  std::vector<int32_t> run_of_row_;
  std::vector<int64_t> position_;
  std::vector<int32_t> token_;
  std::vector<int64_t> wanted_;  // rows whose logits are
  int64_t longest_ = 0;          // keys of the longest run
  bool alone_ = false;           // a tile is all of its token's that needs its key/value head
  std::vector<Loop> loops_;
  std::vector<Work> work_;
  std::vector<float> hidden_, normed_, qkv_, attended_, gate_up_, activated_, delta_, narrow_;
  std::vector<std::vector<float>> scores_;     // a thread each
  std::vector<std::vector<uint16_t>> halves_;  // a thread each: [2 * head_dim]
  LinearScratch scratch_;
  std::vector<float> logits_of_products_;  // RunProducts'
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_PACKED_EXECUTOR_H_
