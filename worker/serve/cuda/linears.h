// The linear layers that read one input (q, k, v; gate, up; …) on the device, run as one.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_LINEARS_H_
#define SHIFTADD_WORKER_SERVE_CUDA_LINEARS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda_linear.h"
#include "worker/packed/packed_blob.h"
#include "worker/serve/cuda/device.h"
#include "worker/serve/cuda/elementwise.h"
#include "worker/serve/packed_model.h"

namespace shiftadd::cuda {

// One weight matrix on the device: packed, or raw.
struct DeviceLinear {
  std::unique_ptr<kernels::CudaLinear> packed;  // or
  Buffer raw_data;
  RawMatrix raw;
  int64_t rows = 0, cols = 0;

  // Synchronizes; the layer's bytes may go afterwards.
  static absl::StatusOr<DeviceLinear> Create(const PackedLayer& layer, cudaStream_t stream);
  uint64_t bytes() const { return packed ? packed->bytes() : raw_data.size(); }
  // Rows (device) as numbers, unrotated: out [count, cols].
  absl::Status Gather(const int32_t* rows, int64_t count, float* out, cudaStream_t stream) const;
};

// Buffers of quantized activations, one for each way that some layer wants its input prepared.
class ActivationPool {
 public:
  explicit ActivationPool(int64_t max_rows) : max_rows_(max_rows) {}
  // For the input of `layer`; `layer.matrix.signs` is copied.
  absl::StatusOr<kernels::CudaActivations*> For(const PackedLayer& layer,
                                                PackedModelOptions::Precision precision);

 private:
  using Key = std::tuple<int64_t, int64_t, bool, bool>;  // width, group, rotated, 16 bits
  const int64_t max_rows_;
  std::map<Key, std::unique_ptr<kernels::CudaActivations>> made_;
};

// What a group's input is made from, in the kernel that quantizes it. Row stride `ld`; null where
// it does not apply.
struct GroupInput {
  enum class Kind { kPlain, kNorm, kSiluMul } kind = Kind::kPlain;
  const float* x = nullptr;  // kSiluMul: the gate
  int64_t ld = 0;
  const float* up = nullptr;      // kSiluMul
  const float* add = nullptr;     // kNorm: added to x first, or null …
  float* sum = nullptr;           // … and where the sum goes; ld is the width
  const float* weight = nullptr;  // kNorm
  float eps = 0;
};

struct RunContext {
  cudaStream_t stream = nullptr;
  kernels::CudaMultiplyOptions multiply;
  float* scratch = nullptr;  // [rows, widest input] if any group has a raw matrix
};

// Not thread-safe: groups share activations.
class LinearGroup {
 public:
  // `activations` (null for a raw matrix) must outlive the group.
  void Add(DeviceLinear linear, kernels::CudaActivations* activations);
  absl::Status SetBias(const std::vector<float>& bias);  // of all rows

  int64_t rows() const { return rows_; }
  int64_t cols() const { return members_.empty() ? 0 : members_[0].linear.cols; }
  uint64_t bytes() const;
  bool has_raw() const { return has_raw_; }
  const float* bias() const { return bias_.as<float>(); }  // null: none
  const DeviceLinear& linear(size_t i) const { return members_[i].linear; }

  // y [m, rows()] without the bias.
  absl::Status Run(GroupInput input, int64_t m, float* y, const RunContext& context) const;

 private:
  struct Member {
    DeviceLinear linear;
    kernels::CudaActivations* activations;
    int64_t first_row;
  };

  std::vector<Member> members_;
  std::vector<kernels::CudaActivations*> preparations_;
  Buffer bias_;
  bool has_raw_ = false;
  int64_t rows_ = 0;
};

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_LINEARS_H_
