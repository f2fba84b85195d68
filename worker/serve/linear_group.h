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

// Buffers that groups of one executor share.
struct LinearScratch {
  // By preparation and slice of tokens.
  std::vector<std::vector<kernels::Activations>> activations;
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

  // Items: slices of tokens. `produce(t)` fills row t of x, once for each token.
  Loop PrepareLoop(int64_t m) const { return {Slices(m), 1}; }
  void Prepare(int64_t begin, int64_t end, absl::FunctionRef<void(int64_t)> produce, const float* x,
               int64_t m, kernels::Isa isa, LinearScratch* scratch) const;

  // Items: units of rows, for each slice.
  Loop MultiplyLoop(int64_t m, int threads) const;
  void Multiply(int64_t begin, int64_t end, const float* x, int64_t m, float* y,
                const VectorOps& ops, const LinearScratch& scratch) const;

 private:
  struct Preparation {
    int64_t group = 0;
    const uint32_t* signs = nullptr;  // of the first matrix that wants it
    kernels::Precision precision = kernels::Precision::kA8;
  };
  struct Member {
    Linear linear;
    int64_t first_row = 0;
    int preparation = -1;  // -1: raw
  };

  int PreparationOf(const kernels::CpuLinear& linear, PackedModelOptions::Precision precision);
  static int64_t Slices(int64_t m) { return (m + kSliceTokens - 1) / kSliceTokens; }
  int64_t Units() const;
  // Rows [begin, end) of the group for tokens [first, first + count).
  void MultiplySlice(int64_t slice, const float* x, int64_t first, int64_t count, int64_t begin,
                     int64_t end, float* y, const VectorOps& ops,
                     const LinearScratch& scratch) const;

  std::vector<Member> linears_;
  std::vector<Preparation> preparations_;
  int64_t rows_ = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_LINEAR_GROUP_H_
