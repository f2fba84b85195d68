// The linear layers that read one input (q, k, v; gate, up; …), run as one.
#ifndef SHIFTADD_WORKER_SERVE_LINEAR_GROUP_H_
#define SHIFTADD_WORKER_SERVE_LINEAR_GROUP_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/cpu_linear.h"
#include "worker/packed/packed_blob.h"
#include "worker/serve/packed_model.h"
#include "worker/serve/thread_pool.h"
#include "worker/serve/vector_ops.h"

namespace shiftadd {

// One weight matrix in its kernel's form, or raw, with its bias.
struct Linear {
  std::unique_ptr<kernels::CpuLinear> packed;     // or
  std::shared_ptr<const std::vector<float>> raw;  // [rows, cols]
  std::vector<float> bias;                        // [rows], or empty
  int64_t rows = 0, cols = 0;

  // Repacks for `isa`; the layer's bytes may go afterwards.
  static absl::StatusOr<Linear> Create(const PackedLayer& layer, std::vector<float> bias,
                                       kernels::Isa isa);
  uint64_t bytes() const;
  // The weights of one row, unrotated: [cols].
  void GatherRow(int64_t row, float* out) const;
};

// How a matrix wants its inputs.
struct Preparation {
  int64_t group = 0;
  const uint32_t* signs = nullptr;  // null: not rotated
  kernels::Precision precision = kernels::Precision::kA8;

  // Whether both give the same digits: the signs of one input width are the same for all layers of
  // a package.
  bool Like(const Preparation& other) const {
    return group == other.group && precision == other.precision &&
           (signs == nullptr) == (other.signs == nullptr);
  }
};

// The digits of a step's inputs. Groups that read inputs of one form use the same room one after
// the other. Buffers only grow.
class LinearScratch {
 public:
  explicit LinearScratch(int threads) : rows_(static_cast<size_t>(threads)) {}

  // A new step: what was reserved is free again.
  void Clear() { used_ = 0; }
  // Room for m tokens of k inputs in `slices` slices that differ by little.
  void Reserve(const Preparation& how, int64_t m, int64_t k, int64_t slices);
  // A slice of what was reserved.
  kernels::Activations& Slice(const Preparation& how, int64_t m, int64_t k, int64_t slice);
  const kernels::Activations& Slice(const Preparation& how, int64_t m, int64_t k,
                                    int64_t slice) const;
  // A thread's own row, as long as the longest reserved input with its padding.
  float* Row(int thread) { return rows_[static_cast<size_t>(thread)].data(); }

 private:
  struct Input {
    Preparation how;
    int64_t m = 0, k = 0;
    std::vector<kernels::Activations> slices;
  };
  const Input* Find(const Preparation& how, int64_t m, int64_t k) const;

  std::vector<Input> inputs_;  // the first used_ are reserved
  size_t used_ = 0;
  std::vector<std::vector<float>> rows_;
};

// Activations are prepared once for all matrices that want them alike. Tokens go through in slices
// of at most kSliceTokens, so that a decoded weight is used for many tokens and the slice stays in
// the cache. Not thread-safe.
class LinearGroup {
 public:
  static constexpr int64_t kSliceTokens = 32;

  void Add(Linear linear, PackedModelOptions::Precision precision);

  int64_t rows() const { return rows_; }  // of all matrices
  int64_t cols() const { return linears_.empty() ? 0 : linears_[0].linear.cols; }
  uint64_t bytes() const;
  const Linear& linear(size_t i) const { return linears_[i].linear; }

  // The product y[t * rows() + n] of m tokens x [m, cols()] is two loops of a ThreadPool, one after
  // the other, on any threads. `Reserve` comes before both.
  void Reserve(int64_t m, LinearScratch* scratch) const;

  // Items: tokens. `produce(t)` fills row t of x, once for each token.
  Loop PrepareLoop(int64_t m) const;
  void Prepare(int64_t begin, int64_t end, absl::FunctionRef<void(int64_t)> produce, const float* x,
               int64_t m, kernels::Isa isa, int thread, LinearScratch* scratch) const;

  // Items: units of rows, for each slice; in smaller chunks on crowded cores.
  Loop MultiplyLoop(int64_t m, int threads, bool crowded) const;
  void Multiply(int64_t begin, int64_t end, const float* x, int64_t m, float* y,
                const VectorOps& ops, const LinearScratch& scratch) const;

 private:
  struct Member {
    Linear linear;
    int64_t first_row = 0;
    int preparation = -1;  // -1: raw
  };

  int PreparationOf(const kernels::CpuLinear& linear, PackedModelOptions::Precision precision);
  static int64_t Slices(int64_t m) { return (m + kSliceTokens - 1) / kSliceTokens; }
  int64_t Units() const;
  // Rows [begin, end) of the group for one slice of m tokens.
  void MultiplySlice(int64_t slice, const float* x, int64_t m, int64_t begin, int64_t end, float* y,
                     const VectorOps& ops, const LinearScratch& scratch) const;

  std::vector<Member> linears_;
  std::vector<Preparation> preparations_;
  int64_t rows_ = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_LINEAR_GROUP_H_
